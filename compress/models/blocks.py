"""BlockWalker: runs a model of any size with one decoder block in memory at a time.

Shape letters: S samples, T tokens per sample, H hidden, B samples of one micro-batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch

from compress.errors import RecipeError
from compress.format.packed import PackedTensor
from compress.models import skeleton, structure
from compress.models.block import Block
from compress.models.foreign.kept import KeptCodes
from compress.models.linears import LinearRef, find_linears
from compress.models.packed_source import PackedParts
from compress.models.rows import Rows
from compress.models.source import ModelSource
from compress.models.stored import StoredWeight, find_stored
from compress.models.unread_tensors import sort_unread
from compress.models.walking import kv_cache, packed_weights
from compress.models.walking.arguments import BlockArguments, Listener, tensor_bytes
from compress.models.walking.buffers import compute_buffers, computed_buffers
from compress.models.walking.embedding import embedding_name, rows_present
from compress.models.walking.head import head_name, head_present
from compress.models.walking.outputs import hidden_states
from compress.models.walking.padding_row import check_padding_row
from compress.models.walking.rehearsal import Rehearsal, rehearse
from compress.models.weights import Weights

__all__ = ["Block", "BlockWalker", "split"]

ARGUMENT_BYTES = 256 << 20
"""Memory for arguments of blocks that depend on the tokens; those that do not fit are computed at each call."""


class BlockWalker:
    """Walks the decoder of `source`. Nothing but computed buffers is in memory between the calls."""

    def __init__(
        self, source: ModelSource, *, device: str | torch.device = "cpu", forward_dtype: torch.dtype = torch.float32
    ) -> None:
        """Builds the skeleton and checks that the checkpoint has a tensor for every place in it.

        Args:
            source: the model.
            device: where blocks lie and are computed.
            forward_dtype: dtype of the matrix products in `call` and `forward`, through torch's autocast. Weights,
                norms and hidden states stay float32, and so does all of `call_with` and `logits`.

        Raises:
            ModelError: no causal language model, no list of blocks, tensors missing, or a buffer that transformers
                leaves uninitialised.
        """
        self.source, self.device, self.forward_dtype = source, torch.device(device), forward_dtype
        self.model = skeleton.build(deepcopy(source.config))
        if source.structure is not None:
            structure.apply(self.model, source.structure)
        self.block_names = skeleton.find_blocks(self.model)
        ends = embedding_name(self.model), head_name(self.model)  # refuses models that have none
        self._towers = skeleton.find_towers(self.model, [*self.block_names, *ends])
        self._marks = skeleton.device_marks(self.model, self._towers)
        self._weights = Weights(source, self.model)
        self.kept: PackedParts = source
        """The linears that are packed in the source by their names in the model, also those with another's codes."""
        if source.keeps_codes and source.foreign is not None:
            self.kept = KeptCodes(source.foreign, self._weights, self.model)
        check_padding_row(self.model, ends[0], source, self._weights.plain(self.tied.get(ends[0], ends[0])))
        self._unread = sort_unread(self._weights.unused, source.tensors, self.model)
        self._computed = computed_buffers(self.model)
        self._arguments: dict[tuple[Any, ...], list[BlockArguments]] = {}
        self._argument_bytes = 0
        inside = tuple(f"{name}." for name in self.block_names)
        outside = {n for n in self._computed if not n.startswith(inside)}
        compute_buffers(self.model, self._computed, self.device)
        skeleton.to_meta(self.model, self._computed - outside)
        text = self.model.config.get_text_config()
        self.vocab_size, width = self.model.get_input_embeddings().weight.shape
        # BLT has one for each of its stacks
        self.hidden_size: int = getattr(text, "hidden_size", width)
        self.max_seq_len: int | None = getattr(text, "max_position_embeddings", None)
        # two tokens to run the skeleton with; padding would make models warn
        self._probes = [token for token in range(3) if token != getattr(text, "pad_token_id", None)][:2]
        self._stored = list(self.model.state_dict())
        self._inside = {name for name in self._stored if name.startswith(inside)}

    @property
    def state_size(self) -> int:
        """Channels of a token between two blocks, the S of its state: see `walking.state`."""
        return self.rehearsal.state.size

    @property
    def argument_bytes(self) -> int:
        """Most memory that kept arguments of blocks take where they depend on the tokens; else they are small."""
        return ARGUMENT_BYTES if self.rehearsal.state.by_tokens else 0

    @property
    def tied(self) -> dict[str, str]:
        """Tied tensor -> its master, which alone is in `dense_tensors`."""
        return self._weights.tied

    def use_packed(self, packed: Mapping[str, PackedTensor]) -> None:
        """Has `embed` and `logits` compute with these matrices, given by the names of their parameters, from now on."""
        self._weights.packed.update(packed)

    def rows(self, name: str) -> Rows | None:
        """Returns the reader of the rows of a matrix by its name in the model; None where the loader has to make it."""
        return self._weights.rows(self.tied.get(name, name))

    @property
    def unused_tensors(self) -> list[str]:
        """Extra heads in the checkpoint that a copy of the model loses: no loader would keep them."""
        return list(self._unread.left_out)

    @property
    def extra_tensors(self) -> list[str]:
        """Extra heads in the checkpoint that the model does not run and a copy of it carries over, as they are stored.

        `source.read` reads them; they bear the checkpoint's names, not those of the model.
        """
        return list(self._unread.carried)

    @cached_property
    def rehearsal(self) -> Rehearsal:
        """What a run on a few tokens shows of the model.

        Raises:
            ModelError: the model cannot be walked block by block.
        """
        with self._front(torch.tensor(self._probes)):
            ends = {embedding_name(self.model), head_name(self.model)}
            return rehearse(self.model, self.block_names, self._probes, self.device, ends)

    def linears(self, index: int) -> list[LinearRef]:
        """Returns the linears of one block that can be packed, in the order of the module tree.

        Those whose weight the block reads without calling them (`rehearsal.read_directly`) are left out, and those
        whose weight several places share (Zamba's transformer blocks): it stays dense.
        """
        name = self.block_names[index]
        refs = find_linears(self.model.get_submodule(name), name)
        dense = self.rehearsal.read_directly | self.tied.keys() | set(self.tied.values())
        return [ref for ref in refs if ref.parameter not in dense]

    def dense_tensors(self) -> list[str]:
        """Returns the names of all stored tensors that are not the weight of a block's linear.

        Embeddings, norms, biases, routers, the head; module naming; tied copies are left out.
        """
        linear = {ref.parameter for index in range(len(self.block_names)) for ref in self.linears(index)}
        return [name for name in self._stored if name not in linear and name not in self.tied]

    def dense_shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a stored tensor by its name in the model."""
        return tuple(self.model.get_parameter_or_buffer(name).shape)

    def read_skipped(self, refs: Sequence[LinearRef]) -> dict[str, torch.Tensor]:
        """Returns the weights of linears that stay dense, as the checkpoint has them, by the names of their parameters.

        Raises:
            RecipeError: only some experts of a fused parameter are among them.
        """
        for name, skipped in Counter(ref.parameter for ref in refs if ref.kind == "expert").items():
            if skipped != (total := self.dense_shape(name)[0]):
                raise RecipeError(
                    f"{skipped} of {total} experts are skipped",
                    allowed="all experts of a projection, or none",
                    layer=name,
                )
        return {name: self.read_dense(name) for name in dict.fromkeys(ref.parameter for ref in refs)}

    def read_dense(self, name: str) -> torch.Tensor:
        """Returns a stored tensor by its name in the model, in the checkpoint's dtype, checked finite.

        Fused expert parameters and weights of linears can be read too. Do not call it for a loaded block.
        """
        name = self.tied.get(name, name)
        slot, key = skeleton.slot(self.model, name)
        placeholder = slot[key]
        self._weights.load([name], torch.device("cpu"), self._weights.stored_dtype(name))
        tensor: torch.Tensor = slot[key].detach()
        slot[key] = placeholder
        return tensor

    def stored(self, ref: LinearRef) -> StoredWeight:
        """Returns where the weight of a linear lies in the checkpoint: enough to read it without this walker."""
        return find_stored(self._weights, ref)

    def stored_dtype(self, name: str) -> torch.dtype:
        """Returns the dtype that a stored tensor has in the checkpoint, by its name in the model."""
        return self._weights.stored_dtype(self.tied.get(name, name))

    def stored_bytes(self, name: str) -> int:
        """Returns the size of a stored tensor in the checkpoint's dtype, by its name in the model."""
        return math.prod(self.dense_shape(name)) * self._weights.stored_dtype(name).itemsize

    @torch.no_grad()
    def embed(self, tokens_ST: torch.Tensor, *, micro_batch: int = 8) -> torch.Tensor:
        """Returns the hidden states [S, T, H] (float32, on the CPU) that the first block receives for token ids.

        What else passes from block to block lies behind the hidden states (see `walking.state`).

        Raises:
            CalibrationError: an id lies outside the vocabulary.
        """
        listener, form = self._listener, self.rehearsal.state
        with self._front(tokens_ST):
            parts = [
                form.begin(listener.hidden(part.to(self.device)), part).cpu() for part in split(tokens_ST, micro_batch)
            ]
        hidden_STH = torch.cat(parts)
        return hidden_STH.pin_memory() if self._pins else hidden_STH

    @property
    def _pins(self) -> bool:
        """Whether hidden states wait in pinned host memory between blocks: copies to and from CUDA are then fast."""
        return self.device.type == "cuda" and torch.cuda.is_available()

    def host_like(self, hidden_STH: torch.Tensor) -> torch.Tensor:
        """Returns uninitialised hidden states of the same shape in host memory."""
        return torch.empty_like(hidden_STH, device="cpu", pin_memory=self._pins)

    def load_block(self, index: int) -> Block:
        """Returns block `index` with its weights (float32) and buffers in memory.

        Raises:
            ModelError: a weight is NaN or infinite, or does not fit; the layer is named.
        """
        name = self.block_names[index]
        compute_buffers(self.model, {n for n in self._computed if n.startswith(f"{name}.")}, self.device)
        inside = [n for n in self._stored if n.startswith(f"{name}.")]
        copies = {n: self.tied[n] for n in inside if n in self.tied}
        self._weights.load({*inside, *copies.values()} - copies.keys(), self.device)
        for copy, master in copies.items():
            table, key = skeleton.slot(self.model, copy)
            table[key] = self.model.get_parameter_or_buffer(master)
        skeleton.to_meta(self.model, {n for n in copies.values() if not n.startswith(f"{name}.")})
        block = Block(index, name, self.model.get_submodule(name).requires_grad_(False))
        for ref in self.linears(index) if self.source.rounds_inputs else []:
            if (scheme := self.source.scheme(ref.name)) and "activations" in scheme.options:
                packed = self.source.part(ref.name)
                assert packed is not None
                packed_weights.round_inputs(block, ref, packed)
        kv_cache.round_in(block.module, self.source.kv_scales, name)
        return block

    def free_block(self, block: Block) -> None:
        """Frees the block's memory; the block must not be used afterwards."""
        prefix = f"{block.name}."
        packed_weights.stop_rounding(block)
        kv_cache.stop_rounding(block.module)
        skeleton.to_meta(self.model, {n for n in (*self._stored, *self._computed) if n.startswith(prefix)})

    @torch.no_grad()
    def call(self, block: Block, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Returns the block's output [B, T, H] for one micro-batch, float32, on the walker's device."""
        exact = self.forward_dtype == torch.float32
        with nullcontext() if exact else torch.autocast(self.device.type, self.forward_dtype):
            return self.call_with(block, {}, hidden_BTH).float()

    def call_with(self, block: Block, parameters: Mapping[str, torch.Tensor], hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Returns what `call` would if the block had these parameters, given by their names in it; differentiable."""
        state_BTS, form = hidden_BTH.to(self.device), self.rehearsal.state
        given = form.given(self._given(hidden_BTH)[block.index], state_BTS, block.index)
        output = torch.func.functional_call(
            block.module, dict(parameters), (form.hidden(state_BTS), *given.positional), dict(given.keyword)
        )
        return form.next(hidden_states(output, block.name), state_BTS, given)

    @torch.no_grad()
    def forward(
        self, block: Block, hidden_STH: torch.Tensor, *, micro_batch: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the block's outputs [S, T, H] for all samples, on the CPU.

        They are written into `out` when it is given; it may be `hidden_STH` itself.
        """
        out_STH = self.host_like(hidden_STH) if out is None else out
        for part, place in zip(split(hidden_STH, micro_batch), split(out_STH, micro_batch), strict=True):
            place.copy_(self.call(block, part))
        return out_STH

    @torch.no_grad()
    def logits(self, hidden_STH: torch.Tensor) -> torch.Tensor:
        """Returns the logits [S, T, V] (float32, on the CPU) for the last block's outputs: final norm and head."""
        return self.differentiable_logits(hidden_STH).cpu()

    def differentiable_logits(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """Returns what `logits` does, on the walker's device, with a gradient to the last block's outputs."""
        listener, probe = self._listener, self._probes[0]
        with self._front(torch.tensor([probe])), head_present(self.model, self._weights, self.device):
            tokens_BT = torch.full(hidden_BTH.shape[:2], probe, device=self.device)
            return listener.logits(self.rehearsal.state.hidden(hidden_BTH.to(self.device)), tokens_BT)

    @torch.no_grad()
    def _given(self, state_BTH: torch.Tensor) -> list[BlockArguments]:
        """The arguments of all blocks for a micro-batch.

        Where no token changes them, they are recorded once for each shape. Otherwise they are computed from the ids of
        the micro-batch, and kept while all that is kept takes at most `ARGUMENT_BYTES`.
        """
        form = self.rehearsal.state
        tokens_BT = form.tokens(state_BTH) if form.by_tokens else torch.full(state_BTH.shape[:2], self._probes[0])
        key = (*tokens_BT.shape, tokens_BT.cpu().numpy().tobytes() if form.by_tokens else b"")
        if key in self._arguments:
            return self._arguments[key]
        listener = self._listener
        with self._front(tokens_BT):
            recorded = listener.arguments(tokens_BT.to(self.device))
        size = tensor_bytes(recorded)
        if not form.by_tokens or self._argument_bytes + size <= ARGUMENT_BYTES:
            self._arguments[key] = recorded
            self._argument_bytes += size
        return recorded

    def forget_arguments(self) -> None:
        """Frees the kept arguments of blocks: masks and rotary embeddings, some for each shape of a micro-batch."""
        self._arguments.clear()
        self._argument_bytes = 0

    @cached_property
    def _listener(self) -> Listener:
        return Listener(self.model, self.block_names, self.rehearsal.forms)

    @contextmanager
    def _front(self, tokens: torch.Tensor) -> Iterator[None]:
        """While open, all tensors outside the blocks that a text needs are in memory, but for the head and other rows.

        Vision and audio towers are not, but for the tensors by which the model tells its device.
        """
        ends = {embedding_name(self.model), head_name(self.model)}
        ends |= {self.tied[name] for name in ends if name in self.tied}
        absent = {*ends, *self.tied, *self._inside}
        present = [n for n in self._stored if n not in absent and (n in self._marks or not n.startswith(self._towers))]
        # BERT's head keeps its bias under two names
        copies = {name: master for name, master in self.tied.items() if name not in ends and master in present}
        self._weights.load(present, self.device)
        for name, master in copies.items():
            table, key = skeleton.slot(self.model, name)
            table[key] = self.model.get_parameter_or_buffer(master)
        try:
            with rows_present(self.model, self._weights, tokens.reshape(-1), self.device):
                yield
        finally:
            skeleton.to_meta(self.model, {*present, *ends, *copies})


def split(tensor: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """Returns views of `size` rows each, the last one maybe fewer."""
    parts: tuple[torch.Tensor, ...] = torch.split(tensor, size)  # type: ignore[no-untyped-call]
    return parts
