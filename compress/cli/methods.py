"""`compress methods`: lists the methods, read from their source files without importing them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from compress.cli.shared.arguments import completed
from compress.cli.shared.method_options import method_options
from compress.methods import registry


@click.command("methods")
@click.argument("name", required=False, shell_complete=completed(registry.names))
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON, with all options of every method.")
@click.pass_context
def command(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """List the methods, or show the options of the method NAME."""
    if as_json:
        listed = [_described(each) for each in registry.names()] if name is None else _described(name)
        click.echo(json.dumps(listed, indent=2))
        return
    formatter = ctx.make_formatter()
    if name is None:
        formatter.write_dl([(method, _summary(method)) for method in registry.names()])
        formatter.write("\nOptions of one: compress methods NAME\n")
    else:
        formatter.write_text(_summary(name))
        if records := [record for option in method_options(name) if (record := option.get_help_record(ctx))]:
            with formatter.section("\nOptions"):
                formatter.write_dl(records)
    click.echo(formatter.getvalue().strip("\n"))


def _described(name: str) -> dict[str, Any]:
    """Returns what the registry knows of a method as JSON values; the type of an option by its name."""
    info = dataclasses.asdict(registry.describe(name))
    return info | {"options": [option | {"type": option["type"].__name__} for option in info["options"]]}


def _summary(name: str) -> str:
    info = registry.describe(name)
    reads = {"pack": "Reads calibration statistics.", "rewrite": "Reads text.", "train": "Trains on text."}[info.kind]
    return info.summary if not info.packs else f"{info.summary} {reads if info.needs_data else 'Needs no data.'}"
