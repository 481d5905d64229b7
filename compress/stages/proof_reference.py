"""Computes the reference logits for the proof of load, from the packed values in the written shards.

One decoder block is in memory at a time, and one slice of the head. Shape letters: S samples, T tokens, H hidden, V
vocabulary, N out, K in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psutil
import torch
from safetensors import safe_open

from compress.errors import ModelError
from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.models.walking import kv_cache, packed_weights
from compress.runtime.proof import Text

if TYPE_CHECKING:
    from pathlib import Path

    from compress.progress import Progress
    from compress.stages.pack.block import LinearStage

PROOF_TOKENS = 32
"""Tokens of a text that crosses no window, and of a longer text those compared at its start and at its end."""
_SHARE_OF_MEMORY = 4
"""A text may take this part of the free memory: the model itself and the page cache of its shards need the rest."""
_REACH = re.compile(r"window|chunk|top_?k|block_size|local_attention")
_NO_REACH = re.compile(r"layer|pattern|expert|group|norm|method|lm_head|feed_forward|vision|audio|num_|kernel")
_RATES = re.compile(r"compress_rate")


def tokens(walker: BlockWalker, length: int = PROOF_TOKENS) -> torch.Tensor:
    """Returns random token ids, int64 [1, T], of a run that needs no text: any text can compare two computations."""
    length = min(length, walker.max_seq_len or length)
    return torch.randint(walker.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))


def text_length(walker: BlockWalker, available: int | None = None) -> tuple[int, int]:
    """Returns how many tokens the proof reads, and the longest window, chunk or top-k that they do not exceed (or 0).

    A model computes a mask of another kind, or any mask at all, only above these lengths of its configuration. The
    text goes beyond the longest of them that fits the context and `available` bytes of memory (a share of what is
    free when not given). Windows longer than the context are never reached by the model and do not count.
    """
    if available is None:
        available = _free_share()
    context = walker.max_seq_len
    reached = [
        reach for reach in reaches(walker.source.config.get_text_config().to_dict()) if not context or reach < context
    ]
    for reach in sorted((reach for reach in reached if 2 * reach > PROOF_TOKENS), reverse=True):
        length = min(reach + PROOF_TOKENS, context or reach + PROOF_TOKENS)
        if _text_bytes(walker, length) <= available:
            break
    else:
        length, reach = PROOF_TOKENS, 0
    unread = max((other for other in reached if other > reach and 2 * other > PROOF_TOKENS), default=0)
    return length, unread


def _free_share() -> int:
    return int(psutil.virtual_memory().available) // _SHARE_OF_MEMORY


def reaches(config: Mapping[str, Any]) -> set[int]:
    """Returns the lengths of a configuration from which on attention leaves tokens out: windows, chunks, top-k.

    Parts of it (`text_config`, `attn_config`) are searched as well. A top-k of blocks, or of compressed entries, counts
    with the number of tokens of each.
    """
    config = {str(name): value for name, value in config.items()}  # labels of tasks have numbers for names
    sizes = {name: _sizes(value) for name, value in config.items() if _is_reach(name)}
    block = max((max(size, default=1) for name, size in sizes.items() if "block_size" in name), default=1)
    rate = min((min(_sizes(v), default=1) for name, v in config.items() if _RATES.search(name)), default=1)
    lengths = set()
    for name, found in sizes.items():
        scale = (block if "block" in name else rate) if re.search("top_?k", name) else 1
        lengths |= {size * scale for size in found}
    for name, part in config.items():
        if isinstance(part, Mapping) and not _NO_REACH.search(name):
            lengths |= reaches(part)
    return lengths


def _is_reach(name: str) -> bool:
    return _REACH.search(name) is not None and (_NO_REACH.search(name) is None or name.startswith("index_"))


def _sizes(value: Any) -> list[int]:
    """Returns the positive whole numbers of a value, which may be a list or a mapping of them."""
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [value] if value > 0 else []
    if isinstance(value, Mapping):
        value = list(value.values())
    return [size for item in value for size in _sizes(item)] if isinstance(value, list | tuple) else []


def _text_bytes(walker: BlockWalker, length: int) -> int:
    """Returns an estimate of what one forward pass over `length` tokens takes beside the weights, in float32."""
    config = walker.source.config.get_text_config()
    width = max(walker.hidden_size, *_sizes(getattr(config, "intermediate_size", 0)), 0)
    scores = getattr(config, "index_n_heads", 0)  # the scores of an indexer, one matrix for each head
    if walker.model.config._attn_implementation != "sdpa":  # scores and probabilities of every head
        scores += 2 * getattr(config, "num_attention_heads", 1)
    hidden = 24 * width  # queries, keys, values, both sides of the MLP, residuals and their copies
    masks = 3  # as numbers, as bools, and a copy of each while they are combined
    return 4 * length * (hidden + length * (scores + masks))


def is_exact(walker: BlockWalker) -> bool:
    """Returns whether the walker computes as the proof does, in float32 on a CPU; others round their sums otherwise."""
    return walker.device.type == "cpu" and walker.forward_dtype == torch.float32


def logits(stage: LinearStage, tokens_ST: torch.Tensor, progress: Progress) -> torch.Tensor:
    """Returns the logits float32 [T, V] of the first `PROOF_TOKENS` tokens of the first sample, computed on a CPU."""
    walker = stage.walker
    if not is_exact(walker):
        walker = BlockWalker(stage.walker.source)
        walker.use_packed({f"{name}.weight": packed for name, packed in stage.ends.packed.items()})
    hidden_STH = walker.embed(tokens_ST[:1, :PROOF_TOKENS])
    records = stage.workspace.records()[1:]
    with progress.stage("Reference for the proof", len(records)) as task:
        for index, record in enumerate(records):
            block = walker.load_block(index)
            refs = {ref.name: ref for ref in walker.linears(index)}
            for name, packed in _read(stage.workspace.folder / record["shard"]["file"], record["linears"]):
                packed_weights.put(block, refs[name], packed)
            kv_cache.round_in(block.module, record.get("kv_cache", {}), block.name)
            hidden_STH = walker.forward(block, hidden_STH, micro_batch=1)
            walker.free_block(block)
            if not hidden_STH.isfinite().all():
                raise ModelError("the outputs of the packed block are not finite", layer=walker.block_names[index])
            task.advance(1, walker.block_names[index])
    return walker.logits(hidden_STH)[0]


def complete(texts: Sequence[Text], folder: Path, progress: Progress, room: int | None = None) -> list[Text]:
    """Returns the texts of a reference with one more where they are too short or none: see `text_length`.

    Its logits are those of the finished folder, walked block by block. `room` is the memory in bytes that is left for
    the activations of a text below a limit.
    """
    walker = BlockWalker(ModelSource.open(folder))
    length, unread = text_length(walker, None if room is None else min(room, _free_share()))
    if unread:
        progress.note(
            f"Warning: the proof of load reads {length} tokens. A text longer than the attention window of {unread} "
            "does not fit into the memory that it may take."
        )
    if texts and length <= max(PROOF_TOKENS, *(len(text.tokens) for text in texts)):
        return list(texts)
    return [*texts, _of_folder(walker, tokens(walker, length), progress)]


def bytes_of(texts: Sequence[Text], folder: Path) -> int:
    """Returns the activations of the longest text of a reference in bytes; 0 for short ones, which hardly count."""
    longest = max(len(text.tokens) for text in texts)
    return _text_bytes(BlockWalker(ModelSource.open(folder)), longest) if longest > PROOF_TOKENS else 0


def _of_folder(walker: BlockWalker, tokens_ST: torch.Tensor, progress: Progress) -> Text:
    hidden_STH = walker.embed(tokens_ST)
    with progress.stage("Reference for the proof", len(walker.block_names)) as task:
        for index, name in enumerate(walker.block_names):
            block = walker.load_block(index)
            hidden_STH = walker.forward(block, hidden_STH, micro_batch=1, out=hidden_STH)
            walker.free_block(block)
            task.advance(1, name)
    places_T = torch.arange(tokens_ST.shape[1])
    positions_P = places_T[(places_T < PROOF_TOKENS) | (places_T >= len(places_T) - PROOF_TOKENS)]
    return Text(tokens_ST[0], positions_P, walker.logits(hidden_STH[:, positions_P])[0])


def _read(shard: Path, entries: dict[str, Any]) -> Any:
    """Yields name and packed weight of the linears in a shard."""
    with safe_open(shard, framework="pt") as file:
        for name, entry in entries.items():
            scheme, shape = Scheme.from_dict(entry["scheme"]), (entry["shape"][0], entry["shape"][1])
            planes = {plane: file.get_tensor(f"{name}.{plane}") for plane in layouts.plane_specs(scheme, shape)}
            yield name, PackedTensor(shape, scheme, planes)
