"""The pipeline: a recipe in, a packed checkpoint that is proven to load and what it cost out. Read this file first.

A model is opened, its decoder is packed block by block on the inputs that the packed blocks before it give, the
folder is finished with its manifest, a fresh process proves that it loads, and the suite is asked of the dense model
and of the packed folder read back from disk. A killed run goes on at the block where it stopped.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import RecipeError
from compress.evaluation import suites
from compress.methods import registry
from compress.progress import Progress
from compress.recipe import CalibrationSpec, Recipe, StageSpec, parse_size
from compress.report.allotted import render as allotted
from compress.report.progress import watch
from compress.result import Result
from compress.stages import allocation, finish, full_tuning, linear, planning, reference, streaming
from compress.stages.workspace import open_workspace

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult
    from compress.models.source import ModelSource
    from compress.stages.planning import Plan
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
            (`samples`, `seq_len`, `seed`, `calibration`) and of the recipe (`skip`, `suite`, `limit`, `max_memory`,
            `min_coverage`, `workers`, `revision`).

    Raises:
        CompressError: what was asked or given cannot be done; what is finished is kept, and the same call goes on.
    """
    from compress.models.source import ModelSource

    progress = progress or watch()
    recipe = model if isinstance(model, Recipe) else recipe_for(str(model), method, options)
    if output is not None:
        recipe = dataclasses.replace(recipe, output=str(output))
    stage = the_stage(recipe)
    source = ModelSource.open(recipe.model, revision=recipe.revision)
    identity = {"recipe_hash": finish.recipe_hash(recipe), "source": source.fingerprint}
    with open_workspace(Path(output_folder(recipe)), identity, fresh=fresh) as workspace:
        if not workspace.finished:
            compress_model(recipe, stage, source, workspace, progress)
        finish.prove(workspace, progress)
        result = Result.read(workspace.folder, finish.evaluate(recipe, source, workspace, progress, baseline))
        result.write_report()
        workspace.close()
    return result


def plan(recipe: Recipe) -> Plan:
    """Returns what `run(recipe)` would do, with the estimated size, memory and time; nothing is written."""
    from compress.models.blocks import BlockWalker
    from compress.models.source import ModelSource

    stage = the_stage(recipe)
    source = ModelSource.open(recipe.model, revision=recipe.revision)
    method, config = registry.load(stage.method), registry.configure(stage.method, stage.options)
    return planning.make(recipe, source, BlockWalker(source), method, config, output_folder(recipe))[0]


def compress_model(
    recipe: Recipe, stage: StageSpec, source: ModelSource, workspace: Workspace, progress: Progress
) -> None:
    """Packs all blocks, from where an earlier run stopped, and finishes the folder with its manifest."""
    from compress.calibration.data import load_tokens
    from compress.format.writer import CheckpointWriter
    from compress.models.blocks import BlockWalker
    from compress.stages.block import LinearStage
    from compress.tuning.settings import FullSettings, Settings

    method, config = registry.load(stage.method), registry.configure(stage.method, stage.options)
    walker = BlockWalker(source)
    _, coverage, memory_plan = planning.make(recipe, source, walker, method, config, str(workspace.folder))
    if planning.needs_data(recipe, method):
        tokens_ST = load_tokens(recipe.calibration, source.tokenizer(), max_seq_len=walker.max_seq_len)
    else:
        tokens_ST = reference.tokens(walker)
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
    if stage.target_bits is not None:
        made = allocation.allot(work, stage.target_bits, tokens_ST, progress)
        work = dataclasses.replace(work, overrides=made.overrides)
        progress.note(allotted(made.to_dict()))
    full_tuning.settle(workspace)
    run_stage = streaming.run if planning.streams(stage, method) else linear.run
    logits_TV = run_stage(work, tokens_ST, progress)
    if stage.tune == "full":
        logits_TV = full_tuning.run(work, tokens_ST, FullSettings(), progress)
    finish.write_reference(workspace, tokens_ST, logits_TV)
    for warning in finish.write_manifest(recipe, source, workspace, coverage, walker.unused_tensors):
        progress.note(f"Warning: {warning}")


def the_stage(recipe: Recipe) -> StageSpec:
    """Returns the recipe's stage after checking its method and options, and the suite's name."""
    if recipe.suite != "none":
        suites.check(recipe.suite)
    if len(recipe.stages) > 1:
        raise RecipeError(
            f"the recipe has {len(recipe.stages)} stages", allowed="one stage", do="Run the stages one by one"
        )
    stage = recipe.stages[0]
    registry.check_options(stage.method, stage.options)
    if recipe.workers > 1 and (stage.tune is not None or registry.describe(stage.method).needs_data):
        free = [name for name in registry.names() if not registry.describe(name).needs_data]
        what = f"--tune {stage.tune}" if stage.tune else f"the method {stage.method}, which needs data"
        raise RecipeError(
            f"workers={recipe.workers} with {what}: each of its blocks needs what the one before it gives",
            allowed=f"workers=1, or a method that needs no data ({', '.join(free)}) without --tune",
            do="Leave --workers out",
        )
    return stage


def recipe_for(model: str, method: str, options: dict[str, Any]) -> Recipe:
    """Returns the recipe of a Python call: an option goes to the recipe, the calibration or the method by its name."""
    left = dict(options)
    calibration = {
        field.name: left.pop(name)
        for field in dataclasses.fields(CalibrationSpec)
        if (name := "calibration" if field.name == "source" else field.name) in left
    }
    plain = ("revision", "skip", "suite", "limit", "max_memory", "min_coverage", "workers")
    values = {name: left.pop(name) for name in plain if name in left}
    extra = {name: left.pop(name) for name in ("tune", "target_bits") if name in left}
    if isinstance(values.get("skip"), str):
        values["skip"] = (values["skip"],)
    if isinstance(values.get("max_memory"), str):
        values["max_memory"] = parse_size(values["max_memory"])
    return Recipe(
        model=model,
        stages=(StageSpec(method=method, options=left, **extra),),
        calibration=CalibrationSpec(**calibration),
        **values,
    )


def output_folder(recipe: Recipe) -> str:
    """Returns the folder of the result: as asked, or `runs/<model>-<method>`."""
    return recipe.output or f"runs/{Path(recipe.model_name).name}-{recipe.stages[-1].method}"
