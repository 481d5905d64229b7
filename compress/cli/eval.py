"""`compress eval`: evaluates any model on the knowledge suite, alone or paired with a baseline."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.cli.shared.arguments import model_argument, one_model
from compress.cli.shared.interrupt import replies_are_kept
from compress.json_files import write_text

if TYPE_CHECKING:
    from compress.evaluation.judge import Judge

_KEY = "COMPRESS_JUDGE_KEY"


@click.command("eval")
@model_argument
@click.option("--model", metavar="MODEL", help="The same as the argument MODEL.  [default: atlas]")
@click.option("--suite", metavar="NAME", default="auto", show_default=True, help="Suite, or auto: chosen by the model.")
@click.option("--data-dir", metavar="DIR", help="Data of the suite kick.  [default: the hub]")
@click.option("--chat", metavar="MODE", default="auto", help="Ask through the chat template: always, never or auto.")
@click.option("--tasks", metavar="NAMES", default="", help="lm-eval tasks to run as well, separated by commas.")
@click.option("--baseline", metavar="MODEL", help="Model to compare with item by item, or its eval.json.")
@click.option(
    "--tier", metavar="NAME", help="quick (50 items per family), pr (400) or release (all), instead of --limit."
)
@click.option("--limit", type=click.IntRange(min=1), help="Items per family of the suite.  [default: all]")
@click.option("--device", default="auto", help="auto, cpu, cuda[:N], xpu or mps.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, help="Sequences per batch.")
@click.option("--max-memory", metavar="SIZE", help="Limit on resident memory, e.g. 2.5GB.")
@click.option("--no-cache", is_flag=True, help="Evaluate the baseline again, even if its result is cached.")
@click.option("--judge", metavar="URL", help=f"OpenAI-compatible endpoint that grades answers; its key in ${_KEY}.")
@click.option("--judge-model", metavar="NAME", help="Model name for --judge.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(dir_okay=False), help="Write eval.json to FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print the scores as JSON instead of a table.")
def command(
    model_argument: str | None,
    model: str | None,
    suite: str,
    data_dir: str | None,
    chat: str,
    tasks: str,
    baseline: str | None,
    tier: str | None,
    limit: int | None,
    device: str,
    batch_size: int,
    max_memory: str | None,
    no_cache: bool,
    judge: str | None,
    judge_model: str | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Evaluate MODEL (a folder, compressed or not, or a hub id; default atlas) on the knowledge suite."""
    from compress.cards import refresh
    from compress.evaluation import evaluate
    from compress.evaluation.cache import default_folder
    from compress.report.progress_bars import watch
    from compress.sizes import parse_size

    with replies_are_kept(not no_cache):
        result = evaluate(
            one_model(model_argument, model) or "atlas",
            suite=suite,
            data_dir=data_dir,
            chat=chat,
            tasks=[name.strip() for name in tasks.split(",") if name.strip()],
            baseline=baseline,
            tier=tier,
            limit=limit,
            device=device,
            batch_size=batch_size,
            cache=None if no_cache else default_folder(),
            unfinished=None if no_cache else default_folder() / "unfinished",
            judge=_judge(judge, judge_model),
            max_memory=None if max_memory is None else parse_size(max_memory),
            progress=watch(),
        )
    if output:
        write_text(output, result.to_json() + "\n", do="Give another file")
        refresh.beside(Path(output))
    if as_json:
        from compress.report import json_output

        click.echo(json.dumps(json_output.of_evaluation(result), indent=2))
        return
    from compress.report.console import console
    from compress.report.table import overview, terminal

    console().print(terminal.render(overview.of_evaluation(result)))


def _judge(endpoint: str | None, model: str | None) -> Judge | None:
    from compress.errors import EvaluationError

    if endpoint is None and model is None:
        return None
    if endpoint is None or model is None:
        raise EvaluationError("--judge and --judge-model belong together", do="Give both")
    from compress.evaluation.judge import Judge

    return Judge(endpoint, model, key=os.environ.get(_KEY))
