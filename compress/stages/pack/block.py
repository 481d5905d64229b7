"""Packs one decoder block: collects statistics, solves its linears, and fits the packed block if asked.

The statistics of a linear are those of a block in which the linears before it are packed already (GPTQ's
"true-sequential"), so each linear compensates the errors before it.

Shape letters: S samples, T tokens, H hidden, N out, K in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from compress.calibration import collect as collecting
from compress.calibration.side_by_side import forwards
from compress.errors import ModelError
from compress.format import naming
from compress.format.packed import PackedTensor
from compress.models import linears
from compress.models.walking import kv_cache, packed_weights
from compress.stages import memory
from compress.stages.pack import solve_linear
from compress.stages.pack.ends import PackedEnds

if TYPE_CHECKING:
    from compress.calibration.stats import LayerStats
    from compress.format.writer import CheckpointWriter
    from compress.methods.protocol import PackMethod
    from compress.models.blocks import Block, BlockWalker
    from compress.models.linears import LinearRef
    from compress.progress import Task
    from compress.stages.workspace import Workspace
    from compress.tuning.settings import Settings


@dataclass(frozen=True, slots=True)
class LinearStage:
    """Everything that a pack stage works with."""

    walker: BlockWalker
    writer: CheckpointWriter
    workspace: Workspace
    method: PackMethod
    config: Any
    skipped: frozenset[str]
    """Linears that the method does not pack."""
    memory_plan: memory.MemoryPlan
    memory_limit: int | None
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Linear -> options that differ from `config`, chosen by mixed precision or by the method's `allot`."""
    ends: PackedEnds = field(default_factory=PackedEnds)
    """The embedding and the head, where they are packed."""
    kv_cache: str | None = None
    """What keys and values are rounded to; None: nothing."""
    tuning: Settings | None = None
    """Settings for fitting each block after packing; None: no fitting."""
    bits: tuple[int, ...] | None = None
    """Widths that mixed precision chooses from; None: all of the method's."""
    nothing: bool = False
    """Nothing at all is packed: the result is a plain checkpoint, with the names that its architecture has there."""
    workers: int = 1
    """Processes that solve at the same time, this process included."""

    @property
    def rounds_inputs(self) -> bool:
        """Whether the packed linears round their inputs."""
        return self.method.activations(self.config) is not None

    def config_of(self, name: str) -> Any:
        """Returns the method's Config for one linear."""
        return dataclasses.replace(self.config, **self.overrides.get(name, {}))


@dataclass(frozen=True, slots=True)
class CompressedBlock:
    """The tensors of one packed block, and its record."""

    tensors: dict[str, torch.Tensor]
    """Planes of the packed linears and dense tensors that were fitted, on the CPU, by their names in the checkpoint."""
    record: dict[str, Any]
    """`linears`: the manifest entries by name; `tuning`: errors before and after fitting, and `kv_cache`: scales, if
    they were asked for."""
    outputs_STH: torch.Tensor  # noqa: N815
    """Outputs of the packed block: the inputs of the next one."""


def compress_block(stage: LinearStage, block: Block, hidden_STH: torch.Tensor, task: Task) -> CompressedBlock:
    """Packs the linears of one block in the order of their calls, and puts the packed values into the block."""
    walker, micro_batch = stage.walker, stage.memory_plan.micro_batch
    # the packed block is fitted to the outputs of the dense block on the same inputs, those of the packed model
    wanted_STH = walker.forward(block, hidden_STH, micro_batch=micro_batch) if stage.tuning else None
    packed: dict[str, PackedTensor] = {}
    record: dict[str, Any] = {"linears": {}}
    groups = [
        [ref for ref in group if ref.name not in stage.skipped]
        for group in collecting.input_groups(walker, block, hidden_STH)
    ]
    refs = [ref for group in groups for ref in group]
    if stage.rounds_inputs:
        packed_weights.expect_rounding(block, refs)
    if stage.method.needs(stage.config):
        kept = stage.memory_plan.kept_forwards
        with forwards(walker, block, refs, hidden_STH, micro_batch=micro_batch, kept=kept) as running:
            for group in groups:
                for part in linears.in_batches(group, stage.memory_plan.experts_at_once):
                    _solve(stage, block, part, running.collect(part), packed, record["linears"], task)
            outputs_STH = running.finish() if stage.tuning is None else None
    else:
        for group in groups:
            _solve(stage, block, group, {}, packed, record["linears"], task)
        outputs_STH = walker.forward(block, hidden_STH, micro_batch=micro_batch) if stage.tuning is None else None
    if stage.tuning is None or wanted_STH is None:
        assert outputs_STH is not None
        if stage.kv_cache is not None:
            outputs_STH = _round_keys(stage, block, hidden_STH, record)
        return CompressedBlock(_on_cpu(naming.plane_tensors(packed)), record, outputs_STH)
    from compress.tuning import block as tuning

    tuned = tuning.fit(walker, block, packed, hidden_STH, wanted_STH, stage.tuning)
    did = {"before": tuned.before, "after": tuned.after, "epochs": tuned.epochs, "diverged": tuned.diverged}
    record["tuning"] = {block.name: did}
    outputs_STH = walker.forward(block, hidden_STH, micro_batch=micro_batch)
    return CompressedBlock(_on_cpu(naming.plane_tensors(tuned.packed) | tuned.dense), record, outputs_STH)


def _round_keys(stage: LinearStage, block: Block, hidden_STH: torch.Tensor, record: dict[str, Any]) -> torch.Tensor:
    """Finds the scales of the block's keys and values, and returns its outputs with both rounded."""
    micro_batch = stage.memory_plan.micro_batch
    with kv_cache.measured(block.module, block.name) as peaks:
        stage.walker.forward(block, hidden_STH, micro_batch=micro_batch)
    if silent := next((name for name, pair in peaks.items() if not all(pair)), None):
        raise ModelError("it hands no keys to a cache that could be rounded", do="Leave --kv-cache out", layer=silent)
    record["kv_cache"] = kv_cache.scales_of(peaks)
    kv_cache.round_in(block.module, record["kv_cache"], block.name)
    return stage.walker.forward(block, hidden_STH, micro_batch=micro_batch)


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _solve(
    stage: LinearStage,
    block: Block,
    refs: list[LinearRef],
    stats: dict[str, LayerStats],
    packed: dict[str, PackedTensor],
    entries: dict[str, Any],
    task: Task,
) -> None:
    """Solves linears of one input group, adds them to `packed` and `entries` and puts their values into the block."""
    source = stage.walker.source
    weights = {ref.name: partial(linears.weight, block, ref) for ref in refs}
    configs = {name: stage.config_of(name) for name in weights}
    # composite linears have parts of other widths, so no option is decided for them together with others
    whole = {name: weight for name, weight in weights.items() if source.scheme(name) is None}
    configs |= solve_linear.shared_configs(stage.method, {name: configs[name] for name in whole}, whole)
    for ref in refs:
        packed[ref.name], restored_NK, entries[ref.name] = solve_linear.solve(
            stage.method,
            ref,
            weights[ref.name](),
            stats.get(ref.name),
            configs[ref.name],
            source.part(ref.name),
        )
        packed_weights.put(block, ref, packed[ref.name], restored_NK)
        memory.enforce(stage.memory_limit, ref.name)
        task.advance(1, ref.name)
