"""`compress inspect`: prints what compress.json records about every layer. No weight is read."""

from __future__ import annotations

import json

import click


@click.command("inspect")
@click.argument("folder", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the layers and the coverage as JSON.")
def command(folder: str, as_json: bool) -> None:
    """Show bits, outliers, error and size of every layer of the checkpoint in FOLDER, and what is dense or removed."""
    from compress.format.manifest import read_manifest
    from compress.report.manifest import checked
    from compress.report.table.layers import layer_rows

    manifest = checked(read_manifest(folder))
    if as_json:
        kept = {key: manifest.get(key) for key in ("source", "history", "coverage", "pruning", "training", "warnings")}
        click.echo(json.dumps({"layers": layer_rows(manifest), **kept}, indent=2))
        return
    from compress.report.console import console
    from compress.report.table.layers import layer_table, pruned_table, remarks

    on = console()
    if manifest["tensors"]:
        on.print(layer_table(manifest))
    if (pruned := pruned_table(manifest)) is not None:
        on.print(pruned)
    for line in remarks(manifest):
        on.print(line, markup=False)
