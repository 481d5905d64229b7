"""Runs a recipe: stage after stage, then the evaluation. Read this file first.

Each stage opens a checkpoint folder and writes the next one. It is of one of three kinds: `rewrite` makes a dense model
of another shape (stages/rewrite/run.py), `train` a model with learned weights (stages/train.py), `pack` a model with
packed weights (stages/pack/run.py). The manifest is written last, then a fresh process proves that the folder loads.
Evaluated are the dense model and the last folder, read back from disk. A run that was killed goes on at the stage, and
at the block or training step, where it stopped.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import devices
from compress.cards import refresh
from compress.methods import registry
from compress.progress import Progress
from compress.recipe import Recipe
from compress.report import evaluation_suite, run_record
from compress.report.progress_bars import watch
from compress.result import Result
from compress.stages import distributed, finish, train
from compress.stages.folders import folders
from compress.stages.pack import run as pack
from compress.stages.plan import engine, phases
from compress.stages.plan import plan as planning
from compress.stages.plan.early_refusals import check_recipe
from compress.stages.rewrite import run as rewrite
from compress.stages.workspace import check_folder, open_workspace

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
        model: `atlas` (bundled), a folder with safetensors, a hub id, or a whole Recipe.
        method: name of the method; see `compress methods`.
        output: folder of the result; `runs/<model>-<method>-<width>` when not given, as in `runs/atlas-spqr-3bit`.
        baseline: evaluation of the dense model, if there is one; the dense model is then not evaluated again.
        fresh: start over, even if an interrupted run could go on.
        progress: receives progress reports; by default bars on a terminal and in a notebook, plain lines elsewhere.
        options: options of the method (`bits=3`), of the stage (`tune`, `target_bits`), of the calibration
            (`calibration`, `column`, `samples`, `seq_len`, `seed`) and of the recipe (`skip`, `suite`, `data_dir`,
            `tier`, `limit`, `device`, `engine`, `max_memory`, `min_coverage`, `workers`, `revision`, `keep_codes`).

    Raises:
        CompressError: the recipe, the model or the output folder is not usable. Finished work is kept, and the same
            call goes on from there.
    """
    from compress.models.source import ModelSource

    progress, started = progress or watch(), time.monotonic()
    recipe = model if isinstance(model, Recipe) else Recipe.from_options(str(model), method, options)
    if output is not None:
        recipe = dataclasses.replace(recipe, output=str(output))
    check_recipe(recipe)
    distributed.start(devices.resolve(recipe.device))
    given, evaluation = recipe, None
    source = model_source = ModelSource.open(recipe.model, revision=recipe.revision, keep_codes=recipe.keep_codes)
    recipe = engine.fitted(recipe, source)
    # questions that cannot be read are an error before the work, not after it
    suite = finish.suite_of(recipe, source) if distributed.is_main() else None
    if suite is not None:
        progress.note(f"Evaluation: {evaluation_suite.described(suite.record(recipe.limit))}")
    _refuse(recipe, source, fresh=fresh)
    phases.check_ahead(recipe, source, suite)
    for number, folder in enumerate(folders(recipe)):
        distributed.barrier()  # the checkpoint that the stage reads is complete
        if number:
            source = ModelSource.open(folders(recipe)[number - 1])
            progress.note(f"Stage {number + 1} of {len(recipe.stages)}: {recipe.stages[number].method}")
        step = recipe.step(number, recipe.model if number == 0 else str(source.path), str(folder))
        teacher = train.teacher_of(step, model_source)
        if not distributed.is_main():
            train.join(step, source, teacher, folder, fresh=fresh)
            continue
        with open_workspace(folder, finish.identity(step, source, teacher), fresh=fresh) as workspace:
            if not workspace.finished:
                make_checkpoint(step, source, model_source, teacher, workspace, progress)
            finish.prove(step, workspace, progress)
            if number == len(recipe.stages) - 1:
                evaluation = finish.evaluate(recipe, model_source, workspace, progress, suite, baseline)
                Result.read(folder, evaluation).write_report()
                run_record.update(folder, given, time.monotonic() - started)
            if (kept := refresh.write(folder, model_source.path)) is not None:
                progress.note(kept)
            workspace.close()
    distributed.barrier()
    return Result.read(folder, evaluation if distributed.is_main() else None)


def plan(recipe: Recipe, *, fresh: bool = False) -> Plan:
    """Returns the plan of the first stage of `run(recipe)`, with the estimated size, memory and time.

    Nothing is written, and what the run would refuse before its work is refused. Later stages are not planned, since
    their input does not exist yet.
    """
    from compress.models.source import ModelSource

    check_recipe(recipe)
    devices.resolve(recipe.device)
    source = ModelSource.open(recipe.model, revision=recipe.revision, keep_codes=recipe.keep_codes)
    recipe = engine.fitted(recipe, source)
    step = recipe.step(0, recipe.model, str(folders(recipe)[0]))
    with source.one_tokenizer():
        suite = finish.suite_of(recipe, source)
        _refuse(recipe, source, fresh=fresh)
        phases.check_ahead(recipe, source, suite)
        made = planning.make(step, source, then=tuple(stage.method for stage in recipe.stages[1:]))
    parts = phases.of_run(
        recipe,
        source,
        suite,
        peak_bytes=made.peak_memory_bytes,
        packed=made.packed_parameters,
        stored_bytes=made.output_bytes,
    )
    return dataclasses.replace(
        made,
        evaluation=None if suite is None else suite.record(recipe.limit),
        phases=parts,
        peak_memory_bytes=max(part.peak_bytes for part in parts),
    )


def _refuse(recipe: Recipe, source: ModelSource, *, fresh: bool) -> None:
    """Refuses, before any work, output folders that cannot be used, and options that a later stage would refuse."""
    for stage in recipe.stages:
        registry.configure(stage.method, stage.options)
    first, *later = folders(recipe)
    step = recipe.step(0, recipe.model, str(first))
    if distributed.is_main():
        teacher = train.teacher_of(step, source)
        check_folder(first, finish.identity(step, source, teacher) if first.is_dir() else None, fresh=fresh)
        for folder in later:
            check_folder(folder)


def make_checkpoint(
    recipe: Recipe,
    source: ModelSource,
    original: ModelSource,
    teacher: ModelSource | None,
    workspace: Workspace,
    progress: Progress,
) -> None:
    """Makes the checkpoint of a recipe of one stage, from where an earlier run stopped, and writes its manifest.

    Args:
        recipe: recipe of one stage.
        source: the stage's input.
        original: the model that the first stage began with; calibration text that a model writes is its own.
        teacher: teacher of a stage that trains.
        workspace: the output folder.
        progress: receives progress reports.
    """
    kind = registry.describe(recipe.stages[0].method).kind
    if kind == "pack":
        output = pack.run(recipe, source, workspace, progress, original)
    elif kind == "rewrite":
        output = rewrite.run(recipe, source, workspace, progress, original)
    else:
        assert teacher is not None, "a stage that trains has a teacher"
        output = train.run(recipe, source, teacher, workspace, progress)
    for warning in finish.write_manifest(recipe, source, workspace, output):
        progress.note(f"Warning: {warning}")
