"""Runs a stage of kind `pack`: plans it, chooses options for each linear, packs all blocks, fits them if asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress import devices
from compress.format.writer import CheckpointWriter
from compress.methods import registry
from compress.models.blocks import BlockWalker
from compress.report.table.allotted import render as allocation_table
from compress.stages import finish, proof_reference
from compress.stages.budget import allocation, rank_ratios
from compress.stages.pack import block_loop, ends, full_tuning, precision, streaming
from compress.stages.pack.block import LinearStage
from compress.stages.plan import engine, plan
from compress.stages.plan.needs import streams
from compress.stages.stage_output import StageOutput
from compress.tuning.settings import FullSettings, Settings

if TYPE_CHECKING:
    from compress.models.source import ModelSource
    from compress.progress import Progress
    from compress.recipe import Recipe
    from compress.stages.plan.ends import End
    from compress.stages.workspace import Workspace


def run(
    recipe: Recipe,
    source: ModelSource,
    workspace: Workspace,
    progress: Progress,
    original: ModelSource | None = None,
) -> StageOutput:
    """Writes the shards of the packed model and the reference for the proof of load.

    A run that was killed goes on after the last block that it finished. Calibration text that a model writes is written
    by `original`, by default the source.

    Raises:
        CompressError: the method or its options do not suit the model, it does not fit below `--max-memory`, or too
            small a share of it would be compressed. All of these are found before any work is done.
    """
    stage = recipe.stages[0]
    method, config = registry.load_pack(stage.method), registry.configure(stage.method, stage.options)
    device = devices.resolve(recipe.device)
    # with tuning, a packed block is fitted to the float32 outputs of the dense one
    dtype = precision.forward_dtype("float32" if stage.tune else recipe.forward_dtype, device)
    walker = BlockWalker(source, device=device, forward_dtype=dtype)
    planned = plan.plan_pack(recipe, source, walker, method, config, original=original)
    text = planned.text
    tokens_ST = proof_reference.tokens(walker) if text is None else text.tokens(workspace.work, progress)
    work = LinearStage(
        walker=walker,
        writer=CheckpointWriter(workspace.folder, shard_count=len(walker.block_names) + 1),
        workspace=workspace,
        method=method,
        config=config,
        skipped=planned.kept.union(planned.coverage.skipped),
        nothing=_packs_nothing(planned, source),
        memory_plan=planned.memory,
        memory_limit=recipe.max_memory,
        bits=engine.bits(recipe.engine),
        workers=recipe.workers,
        ends=ends.prepare(workspace, walker, planned.ends, recipe.max_memory, progress),
        tuning=Settings() if stage.tune else None,
        kv_cache=stage.kv_cache,
    )
    work = dataclasses.replace(work, overrides=rank_ratios.allot(work, tokens_ST, progress))
    if stage.target_bits is not None:
        chosen = allocation.allot(work, stage.target_bits, tokens_ST, progress)
        work = dataclasses.replace(work, overrides=chosen.overrides)
        progress.note(allocation_table(chosen.to_dict()))
    full_tuning.settle(workspace)
    pack_blocks = streaming.run if streams(stage, method, source) else block_loop.run
    logits_TV = pack_blocks(work, tokens_ST, progress)
    if stage.tune == "full":
        logits_TV = full_tuning.run(work, tokens_ST, FullSettings(), progress)
    if stage.tune is None or walker.device.type == "cpu":
        # of a model tuned on another device, the proof makes its reference from the folder, tuned norms included
        finish.write_reference(workspace, tokens_ST, logits_TV)
    return StageOutput(
        planned.coverage.to_dict(),
        source.raw_config,
        source.structure,
        walker.unused_tensors,
        [*_dense_ends(planned.ends), *(() if text is None else text.warnings)],
        {} if text is None else {"calibration": text.record},
    )


def _packs_nothing(planned: plan.PackPlan, source: ModelSource) -> bool:
    """Returns whether the result is a plain checkpoint: no linear and no end is packed, and no shape is unusual."""
    ends_packed = any(end.packed for end in planned.ends)
    return not planned.coverage.compressed and not ends_packed and source.structure is None


def _dense_ends(chosen: Sequence[End]) -> list[str]:
    """Returns a warning for each of embedding and head that was to be packed and stays dense."""
    return [f"the {end.role} stays dense: {end.reason}" for end in chosen if end.reason]
