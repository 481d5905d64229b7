"""`compress frontier`: runs several methods at several bit widths; prints a table and draws a chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from compress.cli.run import recipe_defaults
from compress.cli.shared.arguments import model_argument, one_model
from compress.errors import RecipeError
from compress.recipe import Recipe

METHODS = "rtn,gptq,easyquant,finequant,spqr,aqlm"


@click.command("frontier")
@model_argument
@click.option(
    "--model",
    metavar="MODEL",
    help="The same as the argument MODEL: atlas (bundled), smollm2, a folder or a hub id.  [default: atlas]",
)
@click.option(
    "--methods",
    metavar="NAMES",
    default=METHODS,
    help="Methods, separated by commas; +block fine-tunes each block.",
)
@click.option("--bits", metavar="WIDTHS", help="Nominal bit widths, separated by commas.  [default: 2,3,4]")
@click.option("--target-bits", metavar="BITS", help="Stored bits per weight, by mixed precision.")
@click.option(
    "--point", metavar="POINT", multiple=True, help="Another run, e.g. 'spqr bits=2 group_size=32'; repeatable."
)
@click.option("-o", "--output", metavar="FOLDER", help="Output folder.  [default: runs/<model>-frontier]")
@click.option(
    "--suite", metavar="NAME", default=recipe_defaults["suite"], help="Evaluation suite, or a .jsonl of questions."
)
@click.option("--chat", metavar="MODE", help="Ask through the chat template: always, never, or auto.  [default: auto]")
@click.option("--data-dir", metavar="FOLDER", help="Data of the suite kick.  [default: the hub]")
@click.option(
    "--tier", metavar="TIER", help="Part of the suite: quick (50 items per family), pr (400) or release (all)."
)
@click.option("--limit", type=int, help="Items per family of the suite.  [default: all]")
@click.option("--calibration", metavar="SOURCE", help="Calibration text, as in `compress run`.  [default: auto]")
@click.option("--samples", type=int, default=recipe_defaults["samples"], help="Calibration sequences.")
@click.option("--seq-len", type=int, default=recipe_defaults["seq_len"], help="Tokens per sequence.")
@click.option("--seed", type=int, default=recipe_defaults["seed"], help="Seed for drawing the sequences.")
@click.option("--device", default=recipe_defaults["device"], help="auto, cpu, cuda[:N], xpu or mps.")
@click.option("--max-memory", metavar="SIZE", help="Limit on resident memory of every run, e.g. 2.5GB.")
@click.option("--json", "as_json", is_flag=True, help="Print the content of frontier.json instead of a table.")
def command(
    model_argument: str | None,
    model: str | None,
    methods: str,
    bits: str | None,
    target_bits: str | None,
    point: tuple[str, ...],
    output: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Run methods at several widths on MODEL (default: atlas) and plot quality against stored bits.

    Finished runs are not repeated: give the same command again to continue an interrupted one.
    """
    name = one_model(model_argument, model) or "atlas"
    widths = _numbers(bits, int) if bits or target_bits or point else [2, 3, 4]
    settings = {name: value for name, value in flags.items() if value is not None}
    base = Recipe.from_options(name, "rtn", settings)  # the stage is replaced by that of each point
    from compress.report.progress_bars import watch

    progress = watch()
    progress.note(f"Opening {name} ...")
    from compress import frontier
    from compress.report import frontier as drawing
    from compress.report.console import console

    targets = _numbers(target_bits, float)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    points = frontier.points(names if widths or targets else [], widths, targets, point)
    folder = Path(output or f"runs/{Path(base.model_name).name}-frontier")
    try:
        result = frontier.run(points, folder=folder, base=base, progress=progress)
    except KeyboardInterrupt as stop:
        stop.add_note(". Run the same command again: finished runs are not repeated.")
        raise
    if as_json:
        click.echo(json.dumps(result.data, indent=2))
        return
    on = console()
    on.print(drawing.table(result.data))
    for line in [*drawing.remarks(result.data), f"chart: {folder / 'frontier.png'}, {folder / 'frontier.svg'}"]:
        on.print(line, markup=False)


def _numbers(text: str | None, kind: type[int] | type[float]) -> list[Any]:
    try:
        return [kind(part) for part in (text or "").split(",") if part.strip()]
    except ValueError as error:
        raise RecipeError(f"bit widths {text!r}", allowed="numbers separated by commas, such as 2,3,4") from error
