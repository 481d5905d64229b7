"""Packs the decoder blocks in order; each block is calibrated on the outputs of the packed blocks before it.

Shape letters: S samples, T tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from compress.errors import ModelError, OutputError
from compress.format import files
from compress.stages import proof_reference
from compress.stages.pack import shards
from compress.stages.pack.block import LinearStage, compress_block

if TYPE_CHECKING:
    from compress.progress import Progress, Task


def run(stage: LinearStage, tokens_ST: torch.Tensor, progress: Progress) -> torch.Tensor:
    """Packs all blocks that an earlier run has not finished and returns the reference logits, float32 [T, V].

    After each block its shard, the inputs of the next block and then its record are written, so a killed run goes on
    at the next block. The logits are those of the first `PROOF_TOKENS` tokens of the first sample.

    Raises:
        ModelError: the outputs of a packed block are not finite.
    """
    walker, workspace = stage.walker, stage.workspace
    with shards.resumed(stage, progress) as (task, done):
        if done == 0:
            hidden_STH = walker.embed(tokens_ST)
            tensors, entries = shards.outside_blocks(stage)
            _finish_step(stage, 0, hidden_STH, tensors, {"linears": entries})
            task.advance(1, "embeddings")
        else:
            hidden_STH = _load_hidden(workspace.hidden_path(done))
        for step in range(max(done, 1), len(walker.block_names) + 1):
            hidden_STH = _pack(stage, step, hidden_STH, task)
    # rounded inputs turn where sums are rounded otherwise: the reference reads the text alone, as the proof does
    if not proof_reference.is_exact(walker) or stage.rounds_inputs or stage.kv_cache:
        return proof_reference.logits(stage, tokens_ST, progress)
    return walker.logits(hidden_STH[:1, : proof_reference.PROOF_TOKENS])[0]


def _pack(stage: LinearStage, step: int, hidden_STH: torch.Tensor, task: Task) -> torch.Tensor:
    """Packs a block, writes its shard, and returns its outputs; nothing else of it stays in memory."""
    walker = stage.walker
    block = walker.load_block(step - 1)
    packed_block = compress_block(stage, block, hidden_STH, task)
    if not packed_block.outputs_STH.isfinite().all():
        raise ModelError("the outputs of the packed block are not finite", layer=walker.block_names[step - 1])
    walker.free_block(block)
    tensors, entries = shards.left_alone(stage, step - 1)
    tensors |= shards.dense_tensors(stage, step - 1) | packed_block.tensors
    record = packed_block.record | {"linears": entries | packed_block.record["linears"]}
    _finish_step(stage, step, packed_block.outputs_STH, tensors, record)
    task.advance(1, walker.block_names[step - 1])
    return packed_block.outputs_STH


def _finish_step(
    stage: LinearStage, step: int, hidden_STH: torch.Tensor, tensors: dict[str, torch.Tensor], record: dict[str, Any]
) -> None:
    shard = stage.writer.write_shard(step, tensors)
    files.write_tensors(stage.workspace.hidden_path(step + 1), {"hidden": hidden_STH})
    stage.workspace.finish_block(step, {"linears": {}, **record, "shard": shard.to_dict()})


def _load_hidden(path: Path) -> torch.Tensor:
    try:
        hidden_STH: torch.Tensor = load_file(path)["hidden"]
    except (OSError, KeyError, SafetensorError) as error:
        raise OutputError(f"the resume state {path} is damaged", do="Start over with --fresh") from error
    return hidden_STH
