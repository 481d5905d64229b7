"""The block loop of the methods that treat one linear at a time: statistics, solve, pack, go on with the packed block.

The inputs of every block come from the packed blocks before it, and within a block a linear sees its predecessors
packed (true-sequential): errors are compensated where they arise. Shape letters: S samples, T tokens, H hidden, N out,
K in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from compress.calibration import collect as collecting
from compress.errors import CompressError, ModelError, OutputError
from compress.format import files, layouts, naming
from compress.format.packed import PackedTensor
from compress.format.writer import CheckpointWriter, ShardRecord
from compress.models import linears
from compress.stages import memory
from compress.stages.workspace import Workspace

if TYPE_CHECKING:
    from types import ModuleType

    from compress.calibration.stats import LayerStats
    from compress.models.blocks import Block, BlockWalker
    from compress.models.linears import LinearRef
    from compress.progress import Progress, Task

PROOF_TOKENS = 32
"""Tokens of the first sample whose logits the fresh process has to reproduce."""


@dataclass(frozen=True, slots=True)
class LinearStage:
    """All that the block loop works with."""

    walker: BlockWalker
    writer: CheckpointWriter
    workspace: Workspace
    method: ModuleType
    config: Any
    skipped: frozenset[str]
    memory_plan: memory.MemoryPlan
    memory_limit: int | None


def run(stage: LinearStage, tokens_ST: torch.Tensor, progress: Progress) -> torch.Tensor:
    """Compresses all blocks, from where an earlier run stopped, and returns the reference logits float32 [T', vocab].

    After each block its shard, the inputs of the next block and then its record are on disk.
    """
    walker, workspace = stage.walker, stage.workspace
    steps = len(walker.block_names) + 1
    done = len(workspace.records())
    for shard in shard_records(workspace):
        if not shard.matches(workspace.folder):
            raise OutputError(f"{shard.file} is not the shard that was written", do="Start over with --fresh")
    if done:
        progress.note(f"Going on at step {done + 1} of {steps}: {done} finished before")
    # a step of the bar is a linear, or the forward pass that ends a block
    wanted = [[ref for ref in walker.linears(i) if ref.name not in stage.skipped] for i in range(steps - 1)]
    sizes = [1, *(len(refs) + 1 for refs in wanted)]
    with progress.stage("Compressing", sum(sizes)) as task:
        if done:
            task.advance(sum(sizes[:done]), "finished before")
        if done == 0:
            hidden_STH = walker.embed(tokens_ST)
            _finish_step(stage, 0, hidden_STH, _dense_tensors(stage, None), {})
            task.advance(1, "embeddings")
        else:
            hidden_STH = _load_hidden(workspace.hidden_path(done))
        for step in range(max(done, 1), steps):
            block = walker.load_block(step - 1)
            tensors, entries = _compress_block(stage, block, hidden_STH, task)
            hidden_STH = walker.forward(block, hidden_STH, micro_batch=stage.memory_plan.micro_batch)
            if not hidden_STH.isfinite().all():
                raise ModelError("the outputs of the packed block are not finite", layer=walker.block_names[step - 1])
            walker.free_block(block)
            _finish_step(stage, step, hidden_STH, tensors | _dense_tensors(stage, step - 1), entries)
            task.advance(1, walker.block_names[step - 1])
    return walker.logits(hidden_STH[:1, :PROOF_TOKENS])[0]


def shard_records(workspace: Workspace) -> list[ShardRecord]:
    """Returns the records of all shards that are written."""
    return [ShardRecord.from_dict(record["shard"]) for record in workspace.records()]


def entries(workspace: Workspace) -> dict[str, Any]:
    """Returns the manifest entries of all linears that are packed, in the order of the blocks."""
    return {name: entry for record in workspace.records() for name, entry in record["linears"].items()}


def _compress_block(
    stage: LinearStage, block: Block, hidden_STH: torch.Tensor, task: Task
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Packs the linears of one block in the order they are called; the block computes with the packed values after."""
    packed: dict[str, PackedTensor] = {}
    described: dict[str, Any] = {}
    for refs, stats in _statistics(stage, block, hidden_STH):
        for ref in refs:
            w_NK = linears.weight(block, ref)
            try:
                packed[ref.name] = stage.method.solve(w_NK, stats.get(ref.name), stage.config)
            except CompressError as error:
                error.layer = error.layer or ref.name
                raise
            restored_NK = layouts.unpack(packed[ref.name])
            described[ref.name] = _describe(stage, ref, packed[ref.name], w_NK, restored_NK, stats.get(ref.name))
            linears.set_weight(block, ref, restored_NK)
            memory.enforce(stage.memory_limit, ref.name)
            task.advance(1, ref.name)
    return naming.plane_tensors(packed), described


def _statistics(
    stage: LinearStage, block: Block, hidden_STH: torch.Tensor
) -> Iterator[tuple[list[LinearRef], dict[str, LayerStats]]]:
    """Yields linears with the statistics of their inputs; each yield sees what was packed before it."""
    for group in collecting.input_groups(stage.walker, block, hidden_STH):
        wanted = [ref for ref in group if ref.name not in stage.skipped]
        if not stage.method.NEEDS:
            yield wanted, {}
            continue
        # experts have inputs of their own: a few at a time bound the memory of their Gram matrices
        at_once = stage.memory_plan.experts_at_once if wanted and wanted[0].kind == "expert" else len(wanted)
        for start in range(0, len(wanted), at_once or 1):
            refs = wanted[start : start + at_once]
            yield (
                refs,
                collecting.collect(stage.walker, block, refs, hidden_STH, micro_batch=stage.memory_plan.micro_batch),
            )


def _describe(
    stage: LinearStage,
    ref: LinearRef,
    packed: PackedTensor,
    w_NK: torch.Tensor,
    restored_NK: torch.Tensor,
    stats: LayerStats | None,
) -> dict[str, Any]:
    """Returns the manifest entry of a linear. The error is ‖(W−Ŵ)X‖²/‖WX‖² on the calibration inputs where there are
    any, else ‖W−Ŵ‖²/‖W‖²."""
    wrong_NK = w_NK - restored_NK
    seen = stats is not None and stats.num_tokens > 0
    if seen:
        assert stats is not None
        lost = float((wrong_NK @ stats.gram_KK).mul_(wrong_NK).sum(dtype=torch.float64))
        whole = float((w_NK @ stats.gram_KK).mul_(w_NK).sum(dtype=torch.float64))
    else:
        lost, whole = (float(tensor.square().sum(dtype=torch.float64)) for tensor in (wrong_NK, w_NK))
    return {
        "scheme": packed.scheme.to_dict(),
        "shape": list(packed.shape),
        "bias": ref.bias,
        "method": stage.method.__name__.rpartition(".")[2],
        "size_bytes": packed.size_bytes,
        "bits_per_weight": round(packed.bits_per_weight, 6),
        "outliers": packed.scheme.outliers,
        "relative_error": lost / whole if whole else 0.0,
        "error_of": "outputs" if seen else "weights",
        "tokens": stats.num_tokens if stats is not None else None,
    }


def _dense_tensors(stage: LinearStage, block: int | None) -> dict[str, torch.Tensor]:
    """Returns what stays dense of a block (None: of everything outside the blocks), in the checkpoint's dtypes."""
    walker = stage.walker
    prefixes = tuple(f"{name}." for name in walker.block_names)
    own = (lambda name: not name.startswith(prefixes)) if block is None else (lambda n: n.startswith(prefixes[block]))
    tensors = {name: walker.read_dense(name) for name in walker.dense_tensors() if own(name)}
    if block is not None:
        tensors |= walker.read_skipped([ref for ref in walker.linears(block) if ref.name in stage.skipped])
    return tensors


def _finish_step(
    stage: LinearStage, step: int, hidden_STH: torch.Tensor, tensors: dict[str, torch.Tensor], described: dict[str, Any]
) -> None:
    shard = stage.writer.write_shard(step, tensors)
    files.write_tensors(stage.workspace.hidden_path(step + 1), {"hidden": hidden_STH})
    stage.workspace.finish_block(step, {"shard": shard.to_dict(), "linears": described})


def _load_hidden(path: Path) -> torch.Tensor:
    try:
        hidden_STH: torch.Tensor = load_file(path)["hidden"]
    except (OSError, KeyError) as error:
        raise OutputError(f"the resume state {path} is damaged", do="Start over with --fresh") from error
    return hidden_STH
