"""The pipeline: a recipe in, a checkpoint that is proven to load and what it cost out. Read this file first.

Stage after stage, a checkpoint is opened and the next one made of it: cut (prune), trained (distill, ast), or packed
block by block on the inputs that the packed blocks before it give. Each folder is finished with its manifest, and a
fresh process proves that it loads. In the end the suite is asked of the dense model and of the last folder, read back
from disk. A killed run goes on in the stage, and at the block or step, where it stopped.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import RecipeError
from compress.evaluation import suites, tiers
from compress.methods import registry
from compress.progress import Progress
from compress.recipe import Recipe, folders
from compress.report.progress_bars import watch
from compress.report.table.allotted import render as allotment
from compress.result import Result
from compress.stages import distributed, finish, proof_reference, train
from compress.stages.budget import allocation, rank_ratios
from compress.stages.pack import block_loop, full_tuning, streaming
from compress.stages.plan import outlook
from compress.stages.plan import plan as planning
from compress.stages.rewrite import run as rewrite
from compress.stages.workspace import open_workspace

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult
    from compress.models.source import ModelSource
    from compress.stages.plan.plan import Plan
    from compress.stages.workspace import Workspace


def run(
    model: str | Path | Recipe = "atlas",
    method: str = "spqr",
    *,
    output: str | Path | None = None,
    baseline: EvalResult | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Compresses a model and returns the checkpoint with its evaluation.

    Args:
        model: `atlas` (bundled), a folder of safetensors, a hub id, or a whole Recipe.
        method: name of the method; see `compress methods`.
        output: folder of the result; `runs/<model>-<method>` when not given.
        baseline: evaluation of the dense model, where there is one: the same model is not asked again.
        fresh: start over, also where an interrupted run could go on.
        progress: where to report to; by default bars on a terminal and in a notebook, plain lines elsewhere.
        options: options of the method (`bits=3`), of the stage (`tune`, `target_bits`), of the calibration
            (`samples`, `seq_len`, `seed`, `calibration`) and of the recipe (`skip`, `suite`, `data_dir`, `tier`,
            `limit`, `max_memory`, `min_coverage`, `workers`, `revision`).

    Raises:
        CompressError: what was asked or given cannot be done; what is finished is kept, and the same call goes on.
    """
    from compress.models.source import ModelSource

    progress = progress or watch()
    recipe = model if isinstance(model, Recipe) else Recipe.from_options(str(model), method, options)
    if output is not None:
        recipe = dataclasses.replace(recipe, output=str(output))
    check(recipe)
    evaluation = None
    source = first = ModelSource.open(recipe.model, revision=recipe.revision)
    for number, folder in enumerate(folders(recipe)):
        distributed.barrier()
        if number:
            source = ModelSource.open(folders(recipe)[number - 1])
            progress.note(f"Stage {number + 1} of {len(recipe.stages)}: {recipe.stages[number].method}")
        step = recipe.step(number, recipe.model if number == 0 else str(source.path), str(folder))
        teacher = train.teacher_of(step, first)
        if not distributed.is_main():
            train.join(step, source, teacher, folder, fresh=fresh)
            continue
        with open_workspace(folder, finish.identity(step, source, teacher), fresh=fresh) as workspace:
            if not workspace.finished:
                make(step, source, teacher, workspace, progress)
            finish.prove(workspace, progress)
            if number == len(recipe.stages) - 1:
                evaluation = finish.evaluate(recipe, first, workspace, progress, baseline)
                Result.read(folder, evaluation).write_report()
            workspace.close()
    distributed.barrier()
    return Result.read(folder, evaluation if distributed.is_main() else None)


def plan(recipe: Recipe) -> Plan:
    """Returns what the first stage of `run(recipe)` would do, with the estimated size, memory and time.

    Nothing is written. What later stages do depends on what the ones before them leave.
    """
    from compress.models.blocks import BlockWalker
    from compress.models.source import ModelSource

    check(recipe)
    step = recipe.step(0, recipe.model, str(folders(recipe)[0]))
    stage = step.stages[0]
    source = ModelSource.open(recipe.model, revision=recipe.revision)
    method, config = registry.load(stage.method), registry.configure(stage.method, stage.options)
    if method.KIND == "pack":
        made = planning.make(step, source, BlockWalker(source), method, config, str(step.output))[0]
    else:
        made = outlook.make(step, source, BlockWalker(source), method, config)
    return dataclasses.replace(made, then=tuple(stage.method for stage in recipe.stages[1:]))


def make(
    recipe: Recipe, source: ModelSource, teacher: ModelSource | None, workspace: Workspace, progress: Progress
) -> None:
    """Makes the checkpoint of a recipe of one stage, from where an earlier run stopped, and writes its manifest."""
    method = registry.load(recipe.stages[0].method)
    if method.KIND == "pack":
        made = pack(recipe, source, workspace, progress)
    elif method.KIND == "rewrite":
        made = rewrite.run(recipe, source, workspace, progress)
    else:
        assert teacher is not None, "what is trained is trained towards a teacher"
        made = train.run(recipe, source, teacher, workspace, progress)
    for warning in finish.write_manifest(recipe, source, workspace, made):
        progress.note(f"Warning: {warning}")


def pack(recipe: Recipe, source: ModelSource, workspace: Workspace, progress: Progress) -> finish.Made:
    """Packs all blocks, one linear at a time."""
    from compress.calibration.data import load_tokens
    from compress.format.writer import CheckpointWriter
    from compress.models.blocks import BlockWalker
    from compress.stages.pack.block import LinearStage
    from compress.tuning.settings import FullSettings, Settings

    stage = recipe.stages[0]
    method, config = registry.load_pack(stage.method), registry.configure(stage.method, stage.options)
    walker = BlockWalker(source)
    _, coverage, memory_plan = planning.make(recipe, source, walker, method, config, str(workspace.folder))
    if planning.needs_data(recipe, method):
        tokens_ST = load_tokens(recipe.calibration, source.tokenizer(), max_seq_len=walker.max_seq_len)
    else:
        tokens_ST = proof_reference.tokens(walker)
    work = LinearStage(
        walker=walker,
        writer=CheckpointWriter(workspace.folder, shard_count=len(walker.block_names) + 1),
        workspace=workspace,
        method=method,
        config=config,
        skipped=frozenset(coverage.skipped),
        memory_plan=memory_plan,
        memory_limit=recipe.max_memory,
        workers=recipe.workers,
        tuning=Settings() if stage.tune else None,
    )
    work = dataclasses.replace(work, overrides=rank_ratios.allot(work, tokens_ST, progress))
    if stage.target_bits is not None:
        allotted = allocation.allot(work, stage.target_bits, tokens_ST, progress)
        work = dataclasses.replace(work, overrides=allotted.overrides)
        progress.note(allotment(allotted.to_dict()))
    full_tuning.settle(workspace)
    run_stage = streaming.run if planning.streams(stage, method, source) else block_loop.run
    logits_TV = run_stage(work, tokens_ST, progress)
    if stage.tune == "full":
        logits_TV = full_tuning.run(work, tokens_ST, FullSettings(), progress)
    finish.write_reference(workspace, tokens_ST, logits_TV)
    return finish.Made(coverage.to_dict(), source.raw_config, source.structure, walker.unused_tensors)


def check(recipe: Recipe) -> None:
    """Checks what can be refused before a model is opened: methods, their options, the suite's name."""
    if recipe.suite != "none":
        suites.check(recipe.suite)
        tiers.resolve(recipe.tier, recipe.limit)
    for stage in recipe.stages:
        registry.check_options(stage.method, stage.options)
        told = registry.describe(stage.method)
        if told.kind != "pack" and (stage.tune is not None or stage.target_bits is not None):
            raise RecipeError(
                f"{'tune' if stage.tune else 'target_bits'} with the method {stage.method}, which packs no weights",
                do="Leave it out, or give it to a stage that quantises",
            )
        if recipe.workers > 1 and (stage.tune is not None or told.needs_data):
            free = [name for name in registry.names() if not registry.describe(name).needs_data]
            what = f"--tune {stage.tune}" if stage.tune else f"the method {stage.method}, which needs data"
            raise RecipeError(
                f"workers={recipe.workers} with {what}: each of its blocks needs what the one before it gives",
                allowed=f"workers=1, or a method that needs no data ({', '.join(free)}) without --tune",
                do="Leave --workers out",
            )
