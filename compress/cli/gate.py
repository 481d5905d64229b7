"""`compress gate`: tests that a candidate is not worse than the dense model by more than a margin.

Exit codes: 0 pass, 1 fail, 2 unusable input, 3 inconclusive.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.shared.interrupt import replies_are_kept
from compress.errors import CompressError, EvaluationError

if TYPE_CHECKING:
    from compress.evaluation.gate.result import GateReport
    from compress.evaluation.gate.settings import GateJob

_ASKED = ("suite", "data_dir", "chat", "tier", "limit", "device", "batch_size", "max_memory")
"""Settings of the evaluation; not used where both arguments are an eval.json."""


@click.command("gate")
@click.argument("dense", required=False, type=click.Path())
@click.argument("candidate", required=False, type=click.Path())
@click.option("--config", metavar="FILE", help="File with the settings.  [default: compress.toml, if there is one]")
@click.option("--suite", metavar="NAME", help="Suite.  [default: auto, chosen by the model]")
@click.option("--data-dir", metavar="DIR", help="Data of the suite kick.  [default: the hub]")
@click.option("--chat", metavar="MODE", help="Ask through the chat template: always, never or auto.  [default: auto]")
@click.option("--tier", metavar="NAME", help="quick, pr or release, instead of --limit.")
@click.option("--limit", type=click.IntRange(min=1), help="Items per family.  [default: all]")
@click.option("--device", help="auto, cpu, cuda[:N], xpu or mps.  [default: auto]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Sequences per batch.  [default: 32]")
@click.option("--max-memory", metavar="SIZE", help="Limit on resident memory, e.g. 2.5GB.")
@click.option("--no-cache", is_flag=True, help="Evaluate the dense model again, even if its result is cached.")
@click.option(
    "--margin", metavar="[FAMILY=]POINTS", multiple=True,
    help="Tolerated loss; repeatable.  [default: 5, from 1,500 items 2, from 4,000 items 1]",
)  # fmt: skip
@click.option(
    "--floor", metavar="FAMILY=POINTS", multiple=True,
    help="Minimum score of the dense model; repeatable.  [default: chance plus the margin]",
)  # fmt: skip
@click.option("--report-only", metavar="FAMILY", multiple=True, help="Show this family without judging it; repeatable.")
@click.option("--confidence", type=float, help="Confidence of each one-sided bound.  [default: 0.95]")
@click.option("--max-empty", type=float, metavar="POINTS", help="Tolerated rise in empty answers.  [default: 5]")
@click.option("--max-kl", type=float, metavar="NATS", help="Tolerated mean KL divergence.  [default: not judged]")
@click.option("--inconclusive-ok", is_flag=True, default=None, help="Exit with 0 when the verdict is inconclusive.")
@click.option("-o", "--output", metavar="FOLDER", help="Write gate.md, gate.json and junit.xml there.")
@click.option("--json", "as_json", is_flag=True, help="Print gate.json instead of a table.")
def command(config: str | None, no_cache: bool, as_json: bool, **flags: Any) -> int:
    """Judge CANDIDATE against DENSE: two models, two eval.json, or one of each.

    A single argument is the folder of a run, whose evaluation is judged, or an eval.json that contains its baseline.
    Without arguments, compress.toml names both. Flags override compress.toml.
    """
    job = _job(config, flags)
    report: GateReport
    try:
        report = _gate(job, {name: getattr(job, name) for name in _ASKED}, no_cache)
    except CompressError as error:
        if job.output is not None:
            from compress.evaluation.gate.result import unusable
            from compress.report.gate import files

            criteria = dataclasses.asdict(job.settings)
            dense = job.dense or "the dense model"
            files.write(unusable(str(error), criteria, dense, str(job.candidate)), job.output)
        raise
    if job.output is not None:
        from compress.cards import refresh
        from compress.report.gate import files
        from compress.report.page import sources

        files.write(report, job.output)
        refresh.beside(Path(job.output) / sources.GATE)
    if as_json:
        click.echo(report.to_json())
    else:
        from compress.report.console import console
        from compress.report.gate import table

        console().print(table.render(report))
        if job.output is not None:
            click.echo(f"gate.md, gate.json, junit.xml: {job.output}")
    return report.exit_code(inconclusive_ok=job.inconclusive_ok)


def _job(config: str | None, flags: dict[str, Any]) -> GateJob:
    """Returns the settings of compress.toml with the flags over them."""
    from compress.evaluation.gate import inputs
    from compress.evaluation.gate.settings import FILE, GateJob, points

    in_file = GateJob.from_toml(config or FILE) if config is not None or Path(FILE).is_file() else GateJob()
    if flags["dense"] is not None and flags["candidate"] is None:  # one argument is the candidate, with its baseline
        flags |= {"dense": None, "candidate": flags["dense"]}
        in_file = dataclasses.replace(in_file, dense=None)
    models = [flags[name] for name in ("dense", "candidate") if flags[name] is not None]
    alone = len(models) == 1 and inputs.recorded(models[0]) is not None
    if models and (alone or all(name.endswith(".json") for name in models)):  # no model is evaluated
        in_file = dataclasses.replace(
            in_file,
            suite=None,
            data_dir=None,
            chat=None,
            tier=None,
            limit=None,
            device=None,
            batch_size=None,
            max_memory=None,
        )
    settings = {
        "margin": {**in_file.settings.margin, **points(flags.pop("margin"), "margin")},
        "floor": {**in_file.settings.floor, **points(flags.pop("floor"), "floor")},
        "report_only": flags.pop("report_only") or in_file.settings.report_only,
        **{name: flags.pop(name) for name in ("confidence", "max_empty", "max_kl") if flags[name] is not None},
    }
    own = {field.name for field in dataclasses.fields(GateJob)} - {"settings"}
    changes = {name: value for name, value in flags.items() if value is not None and name in own}
    if "tier" in changes or "limit" in changes:  # the flags give one of them: drop the other one of the file
        in_file = dataclasses.replace(in_file, tier=None, limit=None)
    job = dataclasses.replace(in_file, settings=dataclasses.replace(in_file.settings, **settings), **changes)
    if job.candidate is None:
        raise EvaluationError(
            "nothing to judge",
            allowed="the folder of a run, or DENSE and CANDIDATE",
            do=f"Give them, or write both under [gate] into {FILE}",
        )
    return job


def _gate(job: GateJob, asked: dict[str, Any], no_cache: bool) -> GateReport:
    from compress.evaluation.cache import default_folder
    from compress.evaluation.gate.decide import gate
    from compress.report.progress_bars import watch
    from compress.sizes import parse_size

    assert job.candidate is not None
    asked = asked | {"max_memory": None if job.max_memory is None else parse_size(job.max_memory)}
    settings = {field.name: getattr(job.settings, field.name) for field in dataclasses.fields(job.settings)}
    cache = None if no_cache else default_folder()
    unfinished = None if cache is None else cache / "unfinished"
    with replies_are_kept(unfinished is not None):
        return gate(job.dense, job.candidate, **settings, cache=cache, unfinished=unfinished, progress=watch(), **asked)
