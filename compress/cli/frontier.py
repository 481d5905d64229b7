"""`compress frontier`: several methods at several bit widths on one model, as a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from compress.cli.run import recipe_defaults
from compress.errors import RecipeError
from compress.recipe import Recipe

METHODS = "rtn,gptq,easyquant,finequant,spqr,aqlm"


@click.command("frontier")
@click.option(
    "--model", metavar="MODEL", default=recipe_defaults["model"], help="atlas (bundled), a folder, or a hub id."
)
@click.option(
    "--methods", metavar="NAMES", default=METHODS, help="Methods, with commas; `aqlm+block` is tuned by blocks."
)
@click.option("--bits", metavar="WIDTHS", help="Nominal widths, with commas.  [default: 2,3,4]")
@click.option("--target-bits", metavar="BITS", help="True bits per weight, with commas, reached by mixed precision.")
@click.option(
    "--point", metavar="POINT", multiple=True, help="A further point, e.g. 'spqr bits=2 group_size=32'; repeatable."
)
@click.option("-o", "--output", metavar="FOLDER", help="Where all goes.  [default: runs/<model>-frontier]")
@click.option(
    "--suite", metavar="NAME", default=recipe_defaults["suite"], help="Evaluation suite, or a .jsonl of questions."
)
@click.option("--limit", type=int, help="Items per family of the suite.  [default: all]")
@click.option("--calibration", metavar="SOURCE", help="Calibration text, as in `compress run`.  [default: bundled]")
@click.option("--samples", type=int, default=recipe_defaults["samples"], help="Calibration sequences.")
@click.option("--seq-len", type=int, default=recipe_defaults["seq_len"], help="Tokens per sequence.")
@click.option("--seed", type=int, default=recipe_defaults["seed"], help="Seed of the draw of the sequences.")
@click.option("--max-memory", metavar="SIZE", help="Ceiling of the resident memory of every run, e.g. 2.5GB.")
def command(
    model: str,
    methods: str,
    bits: str | None,
    target_bits: str | None,
    point: tuple[str, ...],
    output: str | None,
    **given: Any,
) -> None:
    """Run methods at several widths on one model and draw what each true bit buys.

    Points that are finished are taken as they are: the same command goes on where it was interrupted.
    """
    widths = _numbers(bits, int) if bits or target_bits or point else [2, 3, 4]
    settings = {name: value for name, value in given.items() if value is not None}
    base = Recipe.from_options(model, "rtn", settings)  # the stage is replaced by that of each point
    from compress.report.progress_bars import watch

    progress = watch()
    progress.note(f"Opening {model} ...")
    from compress import frontier
    from compress.report import frontier as drawing
    from compress.report.console import console

    targets = _numbers(target_bits, float)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    asked = frontier.points(names if widths or targets else [], widths, targets, point)
    folder = Path(output or f"runs/{Path(base.model_name).name}-frontier")
    try:
        found = frontier.run(asked, folder=folder, base=base, progress=progress)
    except KeyboardInterrupt as stop:
        stop.add_note(". Run the same command again: finished points are not run again.")
        raise
    on = console()
    on.print(drawing.table(found.data))
    for line in [*drawing.remarks(found.data), f"picture: {folder / 'frontier.png'}, {folder / 'frontier.svg'}"]:
        on.print(line, markup=False)


def _numbers(text: str | None, kind: type[int] | type[float]) -> list[Any]:
    try:
        return [kind(part) for part in (text or "").split(",") if part.strip()]
    except ValueError as error:
        raise RecipeError(f"widths {text!r}", allowed="numbers with commas, such as 2,3,4") from error
