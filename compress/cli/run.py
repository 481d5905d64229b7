"""`compress run`: compresses a model as flags or a recipe file say, and prints what it cost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from compress.cli.shared.arguments import ARGUMENT, completed, model_argument, one_model
from compress.cli.shared.collector import collector_paused
from compress.cli.shared.method_options import DEFAULT_METHOD, MethodCommand, OrNone, given_flags
from compress.engines import ENGINES
from compress.errors import RecipeError
from compress.methods import registry
from compress.recipe import (
    CALIBRATION_OPTIONS,
    DEFAULT_END_BITS,
    RECIPE_OPTIONS,
    STAGE_OPTIONS,
    CalibrationSpec,
    Recipe,
    StageSpec,
)

RECIPE_SETTINGS = (*RECIPE_OPTIONS, *CALIBRATION_OPTIONS, *STAGE_OPTIONS)
recipe_defaults = {
    field.name: field.default for kind in (Recipe, CalibrationSpec) for field in dataclasses.fields(kind)
}


@click.command("run", cls=MethodCommand)
@model_argument
@click.option(
    "--model",
    metavar="MODEL",
    default=recipe_defaults["model"],
    help="The same as the argument MODEL: atlas (bundled), smollm2, a folder or a hub id.",
)
@click.option("--revision", metavar="REV", help="Revision of a hub id.")
@click.option(
    "--method",
    metavar="NAME",
    default=DEFAULT_METHOD,
    shell_complete=completed(registry.names),
    help="Method; `compress methods` lists them.",
)
@click.option(
    "--recipe",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="TOML file with the same settings. Flags override it: --method replaces its stages, options of the method "
    "those of its only stage.",
)
@click.option(
    "--keep-codes", is_flag=True, help="Carry the codes of a model that is quantised already over; pack the rest."
)
@click.option("--tune", metavar="HOW", help="Fine-tune after packing: block, or full (blocks, then the whole model).")
@click.option("--kv-cache", metavar="DTYPE", help="Round keys and values, with scales from calibration: fp8.")
@click.option("--target-bits", type=float, help="Average stored bits per weight; each linear gets its own options.")
@click.option(
    "--embedding-bits",
    type=OrNone(click.INT),
    metavar="BITS",
    default=DEFAULT_END_BITS,
    help="Bits of the token embedding, 2 to 8, or none to leave it dense.",
)
@click.option(
    "--head-bits",
    type=OrNone(click.INT),
    metavar="BITS",
    default=DEFAULT_END_BITS,
    help="Bits of the output head; one that shares its weight with the embedding has those of the embedding.",
)
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(),
    help="Output folder.  [default: by model, method and bits: runs/atlas-spqr-3bit]",
)
@click.option(
    "--calibration",
    metavar="SOURCE",
    default=recipe_defaults["source"],
    help="Calibration text: auto, self (the model writes it), wikitext, c4, ultrachat …, a file or folder, "
    "hub:NAME[@CONFIG][:SPLIT[:COLUMN]], or a mixture such as c4:96,ultrachat:32.",
)
@click.option("--column", metavar="NAME", help="Column of the calibration text or chats.  [default: chosen]")
@click.option("--samples", type=int, default=recipe_defaults["samples"], help="Calibration sequences.")
@click.option("--seq-len", type=int, default=recipe_defaults["seq_len"], help="Tokens per sequence.")
@click.option("--seed", type=int, default=recipe_defaults["seed"], help="Seed for drawing the sequences.")
@click.option("--skip", metavar="GLOB", multiple=True, help="Linears to leave dense, e.g. '*.down_proj'; repeatable.")
@click.option(
    "--for",
    "engine",
    metavar="ENGINE",
    shell_complete=completed(lambda: ENGINES),
    help="Choose only what this engine can hold: " + ", ".join(ENGINES) + ".",
)
@click.option(
    "--suite", metavar="NAME", default=recipe_defaults["suite"], help="Evaluation suite, or auto: chosen by the model."
)
@click.option("--chat", metavar="MODE", help="Ask through the chat template: always, never, or auto.  [default: auto]")
@click.option("--data-dir", metavar="FOLDER", help="Data of the suite kick.  [default: the hub]")
@click.option(
    "--tier", metavar="TIER", help="Part of the suite: quick (50 items per family), pr (400) or release (all)."
)
@click.option("--limit", type=int, help="Items per family of the suite.  [default: all]")
@click.option("--no-eval", is_flag=True, help="Skip the evaluation.")
@click.option(
    "--workers", type=int, default=recipe_defaults["workers"], help="Worker processes, for methods that need no data."
)
@click.option("--device", default=recipe_defaults["device"], help="auto, cpu, cuda[:N], xpu or mps.")
@click.option(
    "--forward-dtype",
    metavar="DTYPE",
    default=recipe_defaults["forward_dtype"],
    help="Products of the calibration forward: float32, bfloat16, or auto.",
)
@click.option("--max-memory", metavar="SIZE", help="Limit on resident memory, e.g. 2.5GB.")
@click.option("--max-shard-size", metavar="SIZE", default="5GB", help="Largest file of weights.")
@click.option(
    "--min-coverage",
    type=float,
    default=recipe_defaults["min_coverage"],
    help="Minimum share of matrices to compress.",
)
@click.option("--fresh", is_flag=True, help="Start over, even if an interrupted run could go on.")
@click.option("--dry-run", is_flag=True, help="Show the plan (linears, size, memory, time) and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table.")
def command(**_: Any) -> None:
    """Compress MODEL (default: atlas), load the packed result back, and show what the compression cost.

    To continue an interrupted run, give the same command again.
    """
    from compress.stages.plan import early_refusals

    flags = given_flags(click.get_current_context())
    recipe = recipe_from(flags)
    with collector_paused():
        early_refusals.check_recipe(recipe)
        early_refusals.check_model(recipe)
        if "dry_run" in flags:
            _show_plan(recipe, fresh="fresh" in flags, as_json="as_json" in flags)
            return
    from compress.report.progress_bars import watch

    progress = watch()
    progress.note(f"Opening {recipe.model} ...")  # the imports alone take seconds
    try:
        with collector_paused():
            from compress import pipeline
        result = pipeline.run(recipe, progress=progress, fresh="fresh" in flags)
    except KeyboardInterrupt as stop:
        where = progress.position() or " before anything was compressed"
        stop.add_note(f"{where}. Run the same command again: it goes on from what is finished.")
        raise
    from compress.stages import distributed

    if not distributed.is_main():
        return  # the main process prints the result
    parts = (result.checkpoint, result.manifest, result.evaluation)
    if "as_json" in flags:
        from compress.report import json_output

        click.echo(json.dumps(json_output.of_checkpoint(*parts), indent=2))
        return
    from compress.report.console import console
    from compress.report.table import overview, terminal

    console().print(terminal.render(overview.of_checkpoint(*parts)))


def recipe_from(flags: dict[str, Any]) -> Recipe:
    """Returns the recipe of a command line; its flags override the settings of the file that `--recipe` names.

    Args:
        flags: the arguments and options on the command line, name -> value.

    Raises:
        RecipeError: two models are given, a method in the place of the model, or an option that is not allowed.
    """
    own = _RUN_FLAGS - {*RECIPE_SETTINGS}
    options = {name: value for name, value in flags.items() if name not in own}
    if (model := one_model(flags.get(ARGUMENT), flags.get("model"))) is not None:
        _refuse_method(model)
        options["model"] = model
    if "no_eval" in flags:
        options["suite"] = "none"
    if path := flags.get("recipe"):
        recipe = Recipe.from_toml(path)
        if method := flags.get("method"):
            same = [stage for stage in recipe.stages if stage.method == method] or [StageSpec(method=method)]
            recipe = dataclasses.replace(recipe, stages=(same[-1],))
    else:
        recipe = Recipe(stages=(StageSpec(method=flags.get("method", DEFAULT_METHOD)),))
    recipe = recipe.with_options(options)
    for stage in recipe.stages:
        registry.check_options(stage.method, stage.options)
    return recipe


def _refuse_method(model: str) -> None:
    """Raises RecipeError for the name of a method in the place of the model."""
    if model in registry.names() and not Path(model).exists():
        raise RecipeError(
            f"{model} is a method, and no folder here has this name", do=f"Write compress run --method {model}"
        )


def _show_plan(recipe: Recipe, *, fresh: bool, as_json: bool) -> None:
    from compress import pipeline

    plan = dataclasses.asdict(pipeline.plan(recipe, fresh=fresh))
    if as_json:
        click.echo(json.dumps(plan, indent=2))
        return
    from compress.report.table.plan import render

    click.echo(render(plan))


_RUN_FLAGS = {param.name for param in command.params}
