"""`compress eval`: the knowledge suite on any model, alone or paired with a baseline."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("eval")
@click.argument("model")
@click.option("--suite", metavar="NAME", default="kick-atlas", help="Evaluation suite.")
@click.option("--baseline", metavar="MODEL", help="Model, or eval.json of one, to pair every item with.")
@click.option("--limit", type=click.IntRange(min=1), help="Items per family of the suite.  [default: all]")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, help="Sequences at a time.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False), help="Write the result as JSON too.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON instead of a table.")
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
        click.echo(result.to_json())
        return
    from compress.report.terminal import print_evaluation

    print_evaluation(result)
