"""The reference of the proof of load: the logits of the packed values as they stand in the written shards.

One block is in memory at a time, the head a stretch at a time. Shape letters: S samples, T tokens, H hidden, V
vocabulary, N out, K in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from compress.errors import ModelError
from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.models import linears

if TYPE_CHECKING:
    from pathlib import Path

    from compress.models.blocks import BlockWalker
    from compress.progress import Progress
    from compress.stages.pack.block import LinearStage

PROOF_TOKENS = 32
"""Tokens of the first sample whose logits the fresh process has to reproduce."""


def tokens(walker: BlockWalker) -> torch.Tensor:
    """Returns the tokens, int64 [1, T], of a run that needs no text: to compare two computations any will do."""
    length = min(PROOF_TOKENS, walker.max_seq_len or PROOF_TOKENS)
    return torch.randint(walker.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))


def logits(stage: LinearStage, tokens_ST: torch.Tensor, progress: Progress) -> torch.Tensor:
    """Returns the logits float32 [T, V] of the first `PROOF_TOKENS` tokens of the first sample."""
    walker = stage.walker
    hidden_STH = walker.embed(tokens_ST[:1, :PROOF_TOKENS])
    records = stage.workspace.records()[1:]
    with progress.stage("Reference for the proof", len(records)) as task:
        for index, record in enumerate(records):
            block = walker.load_block(index)
            refs = {ref.name: ref for ref in walker.linears(index)}
            for name, packed in _read(stage.workspace.folder / record["shard"]["file"], record["linears"]):
                linears.set_weight(block, refs[name], layouts.unpack(packed))
            hidden_STH = walker.forward(block, hidden_STH, micro_batch=1)
            walker.free_block(block)
            if not hidden_STH.isfinite().all():
                raise ModelError("the outputs of the packed block are not finite", layer=walker.block_names[index])
            task.advance(1, walker.block_names[index])
    return walker.logits(hidden_STH)[0]


def of_folder(folder: Path, progress: Progress) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns tokens int64 [1, T] and the logits float32 [T, V] of a finished folder, walked block by block."""
    from compress.models.blocks import BlockWalker
    from compress.models.source import ModelSource

    walker = BlockWalker(ModelSource.open(folder))
    tokens_ST = tokens(walker)
    hidden_STH = walker.embed(tokens_ST)
    with progress.stage("Reference for the proof", len(walker.block_names)) as task:
        for index, name in enumerate(walker.block_names):
            block = walker.load_block(index)
            hidden_STH = walker.forward(block, hidden_STH, micro_batch=1)
            walker.free_block(block)
            task.advance(1, name)
    return tokens_ST, walker.logits(hidden_STH)[0]


def _read(shard: Path, entries: dict[str, Any]) -> Any:
    """Yields name and packed weight of the linears in a shard."""
    with safe_open(shard, framework="pt") as file:
        for name, entry in entries.items():
            scheme, shape = Scheme.from_dict(entry["scheme"]), (entry["shape"][0], entry["shape"][1])
            planes = {plane: file.get_tensor(f"{name}.{plane}") for plane in layouts.plane_specs(scheme, shape)}
            yield name, PackedTensor(shape, scheme, planes)
