"""`compress eval`: the knowledge suite on any model, alone or paired with a baseline."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("eval")
@click.argument("model")
@click.option("--suite", metavar="NAME", default="kick-atlas", help="Evaluation suite.")
@click.option("--baseline", metavar="MODEL", help="Model to pair every item with, or the eval.json of one.")
@click.option("--limit", type=click.IntRange(min=1), help="Items per family of the suite.  [default: all]")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, help="Sequences at a time.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False), help="Write eval.json there too.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON instead of a table.")
def command(
    model: str, suite: str, baseline: str | None, limit: int | None, batch_size: int, output: str | None, as_json: bool
) -> None:
    """Ask MODEL (atlas, a folder, compressed or not, or a hub id) the knowledge suite."""
    from compress.evaluation import evaluate
    from compress.report.progress import watch

    result = evaluate(model, suite=suite, baseline=baseline, limit=limit, batch_size=batch_size, progress=watch())
    if output:
        Path(output).write_text(result.to_json() + "\n", encoding="utf-8")
    if as_json:
        from compress.report import outcome

        click.echo(json.dumps(outcome.of_evaluation(result), indent=2))
        return
    from compress.report import overview, terminal
    from compress.report.console import console

    console().print(terminal.render(overview.of_evaluation(result)))
