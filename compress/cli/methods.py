"""`compress methods`: lists the methods, read from their source files without importing them."""

from __future__ import annotations

import click

from compress.cli._method_options import method_options
from compress.methods import registry


@click.command("methods")
@click.argument("name", required=False)
@click.pass_context
def command(ctx: click.Context, name: str | None) -> None:
    """List the methods, or show the options of the method NAME."""
    formatter = ctx.make_formatter()
    if name is None:
        formatter.write_dl([(method, _summary(method)) for method in registry.names()])
        formatter.write("\nOptions of one: compress methods NAME\n")
    else:
        formatter.write_text(_summary(name))
        if records := [record for option in method_options(name) if (record := option.get_help_record(ctx))]:
            with formatter.section("\nOptions"):
                formatter.write_dl(records)
    click.echo(formatter.getvalue(), nl=False)


def _summary(name: str) -> str:
    info = registry.describe(name)
    reads = {"pack": "Reads calibration statistics.", "rewrite": "Reads text.", "train": "Trains on text."}[info.kind]
    return info.summary if not info.packs else f"{info.summary} {reads if info.needs_data else 'Needs no data.'}"
