"""One decoder block of a method that treats one linear at a time: statistics, solve, pack, fit what was packed.

Within a block a linear sees its predecessors packed (true-sequential): errors are compensated where they arise. Shape
letters: S samples, T tokens, H hidden, N out, K in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from compress.calibration import collect as collecting
from compress.errors import CompressError
from compress.format import layouts, naming
from compress.format.packed import PackedTensor
from compress.models import linears
from compress.stages import memory

if TYPE_CHECKING:
    from types import ModuleType

    from compress.calibration.stats import LayerStats
    from compress.format.writer import CheckpointWriter
    from compress.models.blocks import Block, BlockWalker
    from compress.models.linears import LinearRef
    from compress.progress import Task
    from compress.stages.workspace import Workspace
    from compress.tuning.settings import Settings


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
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Linear -> the options in which it differs from `config`: what mixed precision has allotted to it."""
    tuning: Settings | None = None
    """How each block is fitted after packing; None: not at all."""

    def config_of(self, name: str) -> Any:
        """Returns the method's Config for one linear."""
        return dataclasses.replace(self.config, **self.overrides.get(name, {}))


@dataclass(frozen=True, slots=True)
class CompressedBlock:
    """What one block gives to its shard and to its record."""

    tensors: dict[str, torch.Tensor]
    """Planes of the packed linears, and dense tensors that were fitted, by their names in the checkpoint."""
    record: dict[str, Any]
    """`linears`: the manifest entries; `tuning`: what fitting did, where it was asked for."""


def compress_block(stage: LinearStage, block: Block, hidden_STH: torch.Tensor, task: Task) -> CompressedBlock:
    """Packs the linears of one block in the order they are called; the block computes with the packed values after."""
    micro_batch = stage.memory_plan.micro_batch
    # what the dense block makes of the packed path's inputs is what the packed block is fitted to
    wanted_STH = stage.walker.forward(block, hidden_STH, micro_batch=micro_batch) if stage.tuning else None
    packed: dict[str, PackedTensor] = {}
    record: dict[str, Any] = {"linears": {}}
    for refs, stats in _statistics(stage, block, hidden_STH):
        for ref, config in _configs(stage, block, refs):
            w_NK = linears.weight(block, ref)
            with _naming_the_layer(ref.name):
                packed[ref.name] = stage.method.solve(w_NK, stats.get(ref.name), config)
            restored_NK = layouts.unpack(packed[ref.name])
            record["linears"][ref.name] = describe(
                stage.method, ref, packed[ref.name], w_NK, restored_NK, stats.get(ref.name)
            )
            linears.set_weight(block, ref, restored_NK)
            memory.enforce(stage.memory_limit, ref.name)
            task.advance(1, ref.name)
    if stage.tuning is None or wanted_STH is None:
        return CompressedBlock(naming.plane_tensors(packed), record)
    from compress.tuning import block as tuning

    tuned = tuning.fit(stage.walker, block, packed, hidden_STH, wanted_STH, stage.tuning)
    record["tuning"] = {block.name: {"before": tuned.before, "after": tuned.after, "epochs": tuned.epochs}}
    return CompressedBlock(naming.plane_tensors(tuned.packed) | tuned.dense, record)


def _configs(stage: LinearStage, block: Block, refs: list[LinearRef]) -> Iterator[tuple[LinearRef, Any]]:
    """Yields linears that share an input, each with its Config; a method may decide an option for all of them at once.

    Engines fuse such linears into one product, so what a method has to keep equal among them, it decides here.
    """
    configs = {ref.name: stage.config_of(ref.name) for ref in refs}
    if hasattr(stage.method, "shared"):
        for config in dict.fromkeys(configs.values()):
            members = [ref for ref in refs if configs[ref.name] == config]
            with _naming_the_layer(members[0].name):
                decided = stage.method.shared([linears.weight(block, ref) for ref in members], config)
            configs |= {ref.name: decided for ref in members}
    for ref in refs:
        yield ref, configs[ref.name]


@contextmanager
def _naming_the_layer(name: str) -> Iterator[None]:
    """Adds the layer's path to an error that does not say where it arose."""
    try:
        yield
    except CompressError as error:
        error.layer = error.layer or name
        raise


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


def describe(
    method: ModuleType,
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
        "method": method.__name__.rpartition(".")[2],
        "size_bytes": packed.size_bytes,
        "bits_per_weight": round(packed.bits_per_weight, 6),
        "outliers": packed.scheme.outliers,
        "relative_error": lost / whole if whole else 0.0,
        "error_of": "outputs" if seen else "weights",
        "tokens": stats.num_tokens if stats is not None else None,
    }
