"""Checks before any work whether a model can be run block by block, and which linears must stay dense.

The model is run on a few tokens with silenced blocks that return random hidden states. Walking is right only if

1. every block is run once, in order, and receives the hidden states that the block before it returned;
2. no other argument of a block depends on what earlier blocks computed, but for tables into which they put keys and
   values (see `state`); arguments may depend on the tokens (see `token_ids`);
3. the input of the output head depends on the last block alone.

Each is tested by running twice, with other tokens and other hidden states; where arguments differ, a third run with
the first tokens tells which of the two they depend on. Beside that, one block of each kind is run
by itself with zeros for weights. That shows the form of its output, and the linears whose weight the block reads by
itself instead of calling them (Mamba's `dt_proj`): no packed linear could stand in for these.

Shape letters: B samples, T tokens, H hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import ModelError, translated
from compress.models.walking.arguments import BlockArguments, same, silenced
from compress.models.walking.outputs import OutputForm, holds_absent
from compress.models.walking.state import Slot, StateForm, slot_of
from compress.models.walking.trial import Trial, kind_of, run_alone
from compress.models.walking.watch import Watch, WatchAttributes, linear_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKENS = 4
_CANNOT = "this model cannot be compressed block by block"
_ALLOWED = "decoders that run each block once, in order, on the output of the one before it"


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Results of the rehearsal of one model."""

    forms: tuple[OutputForm, ...]
    """The form of each block's output."""
    read_directly: frozenset[str]
    """Weights of linears, embedding and head that the model reads by itself, by their dotted names."""
    state: StateForm
    """What passes from block to block."""


def rehearse(
    model: PreTrainedModel,
    block_names: Sequence[str],
    probes: Sequence[int],
    device: torch.device,
    ends: Collection[str] = (),
) -> Rehearsal:
    """Returns what is needed to walk the model; everything outside its blocks, except the head, must be in memory.

    Args:
        model: with its blocks on meta (a block that is loaded is run as it is).
        block_names: the decoder blocks, first to last.
        probes: two tokens to run it with.
        device: where the work is done.
        ends: names of the weights of the embedding and the head.

    Raises:
        ModelError: the model cannot be walked block by block; the cause and the block are named.
    """
    stage = _Stage(model, block_names, device, ends)
    first, second = (stage.run(probe, seed) for seed, probe in enumerate(probes))
    by_tokens = not same(first.arguments, second.arguments)
    if by_tokens:
        third = stage.run(probes[0], len(probes))
        for name, one, other in zip(block_names, first.arguments, third.arguments, strict=True):
            if not same(one, other):
                raise _unwalkable("this block receives arguments that earlier blocks have computed", name)
    if not torch.equal(first.head_input, second.head_input):
        raise _unwalkable("the output head sees more than the last block's output", block_names[-1])
    trials = {name: stage.trials[stage.kinds[name]] for name in block_names}
    by_blocks = {f"{name}.{parameter}" for name, trial in trials.items() for parameter in trial.direct}
    forms = tuple(trial.form for trial in trials.values())
    hidden = first.returned[0]
    copies_first = hidden.shape[:2] != (1, _TOKENS)
    shape = (hidden.shape[0], *hidden.shape[3:]) if copies_first else tuple(hidden.shape[2:])
    state = StateForm(shape, copies_first, _slots(trials), by_tokens)
    return Rehearsal(forms, frozenset(by_blocks | stage.direct), state)


def _slots(trials: Mapping[str, Trial]) -> tuple[Slot, ...]:
    """The entries of tables by which blocks share keys and values, in the order in which they are first written."""
    slots: dict[tuple[str, Any], Slot] = {}
    for block, (name, trial) in enumerate(trials.items()):
        for argument, table in trial.tables.items():
            for key, value in table.items():
                slot = slot_of(argument, key, value, block, _TOKENS, name)
                if slots.setdefault((argument, key), slot).heads != slot.heads:
                    raise _unwalkable(f"this block shares {key!r} in another shape than a block before it", name)
    return tuple(slots.values())


@dataclass(slots=True)
class _Pass:
    """Records of one run of the model."""

    arguments: list[BlockArguments] = field(default_factory=list)
    returned: list[torch.Tensor] = field(default_factory=list)
    head_inputs: list[torch.Tensor] = field(default_factory=list)

    @property
    def head_input(self) -> torch.Tensor:
        return self.head_inputs[0]


class _Stage:
    """The model while it is rehearsed."""

    def __init__(
        self, model: PreTrainedModel, block_names: Sequence[str], device: torch.device, ends: Collection[str]
    ) -> None:
        self._model, self._names, self._device, self._ends = model, block_names, device, ends
        self._blocks = [model.get_submodule(name) for name in block_names]
        self.kinds = {name: kind_of(block) for name, block in zip(block_names, self._blocks, strict=True)}
        self.trials: dict[Any, Trial] = {}
        self.direct: set[str] = set()
        """Weights that the model reads around their modules: RWKV rescales them, Mamba asks for the head's dtype."""

    @torch.no_grad()
    def run(self, probe: int, seed: int) -> _Pass:
        """Runs the model on one token, repeated; all hidden states but the last block's depend on `seed`."""
        log = _Pass()

        def answer(index: int, hidden_BTH: torch.Tensor, arguments: BlockArguments) -> Any:
            self._check_call(log, index, hidden_BTH, arguments)
            form = self._trial(self._names[index], hidden_BTH, arguments).form
            is_last = index == len(self._names) - 1
            generator = torch.Generator().manual_seed(0 if is_last else 1 + len(self._names) * seed + index)
            log.arguments.append(arguments)
            log.returned.append(torch.randn(hidden_BTH.shape, generator=generator).to(hidden_BTH))
            return form.around(log.returned[-1])

        tokens_BT = torch.full((1, _TOKENS), probe, device=self._device)
        with (
            translated(f"{_CANNOT}: running it on {_TOKENS} tokens failed", allowed=_ALLOWED),
            Watch(self._model, self._linear_weights()) as watch,
            Watch(self._model, self._ends) as ends,
            silenced(self._blocks, answer),
            _head_silenced(self._model, log),
            WatchAttributes(ends),
        ):
            logits = self._model(input_ids=tokens_BT, use_cache=False).logits
        self.direct |= watch.direct | ends.direct
        if len(log.arguments) != len(self._names):
            raise _unwalkable(f"only {len(log.arguments)} of {len(self._names)} decoder blocks were run", None)
        if len(log.head_inputs) != 1:
            raise _unwalkable(f"its output head was called {len(log.head_inputs)} times for one text", None)
        if logits.shape[:2] != tokens_BT.shape:
            raise _unwalkable(f"it gives logits of shape {list(logits.shape)} for 1 text of {_TOKENS} tokens", None)
        return log

    def _linear_weights(self) -> list[str]:
        named = zip(self._names, self._blocks, strict=True)
        return [f"{name}.{weight}" for name, block in named for weight in linear_weights(block)]

    def _trial(self, name: str, hidden_BTH: torch.Tensor, arguments: BlockArguments) -> Trial:
        """Result of running the block by itself; blocks of one kind share it."""
        kind = self.kinds[name]
        if kind not in self.trials:
            tables: dict[str, dict[Any, Any]] = {}
            for earlier in self._names[: self._names.index(name)]:
                for argument, table in self.trials[self.kinds[earlier]].tables.items():
                    tables.setdefault(argument, {}).update(table)
            try:
                with translated(f"{_CANNOT}: this block cannot be run alone", allowed=_ALLOWED):
                    self.trials[kind] = run_alone(self._model, name, hidden_BTH, arguments, self._device, tables)
            except ModelError as error:
                error.layer = error.layer or name
                raise
        return self.trials[kind]

    def _check_call(self, log: _Pass, index: int, hidden_BTH: torch.Tensor, arguments: BlockArguments) -> None:
        name, expected = self._names[index], len(log.arguments)
        if index != expected:
            expectation = self._names[expected] if expected < len(self._names) else "the end"
            raise _unwalkable(f"decoder blocks ran out of order: expected {expectation}, got {name}", name)
        if not isinstance(hidden_BTH, torch.Tensor) or (1, _TOKENS) not in (
            hidden_BTH.shape[:2],
            hidden_BTH.shape[1:3],
        ):
            shape = list(getattr(hidden_BTH, "shape", ()))
            raise _unwalkable(
                f"this block receives hidden states of shape {shape} for 1 text of {_TOKENS} tokens", name
            )
        if log.returned and not (
            hidden_BTH.shape == log.returned[-1].shape and torch.equal(hidden_BTH, log.returned[-1])
        ):
            raise _unwalkable("this block receives something else than the hidden states of the block before it", name)
        if holds_absent(arguments.positional) or holds_absent(arguments.keyword):
            raise _unwalkable("this block takes an input besides the hidden states from the block before it", name)


@contextmanager
def _head_silenced(model: PreTrainedModel, log: _Pass) -> Iterator[None]:
    """While open, the output head records its input and returns zeros of its logits' shape without using memory."""
    head: nn.Module = model.get_output_embeddings()
    rows = head.get_parameter("weight").shape[0]

    def forward(x: torch.Tensor) -> torch.Tensor:
        log.head_inputs.append(x)
        return x.new_zeros(1).expand(*x.shape[:-1], rows)

    head.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del head.forward


def _unwalkable(reason: str, layer: str | None) -> ModelError:
    return ModelError(f"{_CANNOT}: {reason}", allowed=_ALLOWED, layer=layer)
