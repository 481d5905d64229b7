"""What a checkpoint holds, layer by layer, from its manifest alone. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from compress.report.formatting import percent, size


def layer_rows(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns one row per compressed tensor, in the manifest's order, with the keys that `compress inspect` shows."""
    return [
        {
            "layer": name,
            "shape": list(entry["shape"]),
            "method": entry.get("method"),
            "layout": entry["scheme"]["layout"],
            "bits": entry["scheme"]["bits"],
            "group_size": entry["scheme"]["group_size"],
            "bits_per_weight": entry.get("bits_per_weight"),
            "outliers": entry.get("outliers"),
            "relative_error": entry.get("relative_error"),
            "size_bytes": entry.get("size_bytes"),
            "tokens": entry.get("tokens"),
        }
        for name, entry in manifest["tensors"].items()
    ]


def layer_table(manifest: Mapping[str, Any]) -> Table:
    """Returns the rich table of the layers; its last line is the sum."""
    rows = layer_rows(manifest)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_footer=True)
    weights = sum(row["shape"][0] * row["shape"][1] for row in rows)
    known = [row["size_bytes"] for row in rows if row["size_bytes"] is not None]
    bits = f"{8 * sum(known) / weights:.3f}" if rows and len(known) == len(rows) else ""
    outliers = sum(row["outliers"] or 0 for row in rows)
    table.add_column("layer", footer=f"{len(rows)} linears", overflow="fold")
    for name, footer in (
        ("shape", f"{weights:,}"),
        ("code", ""),
        ("bits/w", bits),
        ("outliers", f"{outliers:,}"),
        ("error", ""),
        ("size", size(sum(known))),
    ):
        table.add_column(name, footer=footer, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["layer"],
            "{}×{}".format(*row["shape"]),
            _code(manifest["tensors"][row["layer"]]["scheme"]),
            _shown(row["bits_per_weight"], ".3f"),
            _shown(row["outliers"], ","),
            _shown(row["relative_error"], ".1e"),
            "" if row["size_bytes"] is None else size(row["size_bytes"]),
        )
    return table


def pruned_table(manifest: Mapping[str, Any]) -> Table | None:
    """Returns the rich table of what left each layer; None for a checkpoint that was not pruned."""
    units = (manifest.get("pruning") or {}).get("units")
    if not units:
        return None
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold")
    for name in ("before", "after", "importance lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, unit in units.items():
        lost = unit.get("importance_lost")
        table.add_row(name, f"{unit['before']:,}", f"{unit['after']:,}", "" if lost is None else percent(lost))
    return table


def _code(scheme: Mapping[str, Any]) -> str:
    """Returns how a linear is coded, in a few characters; of one in parts, how its parts are."""
    options = scheme["options"]
    if "rank" in options:
        left, right = (_code(options[part]) for part in ("left", "right"))
        return f"rank {options['rank']} · {left if left == right else f'{left} · {right}'}"
    if "values" in options:
        return f"{options['n']}:{options['m']} · {_code(options['values'])}"
    if scheme["layout"].startswith("dense"):
        return f"{options['dtype']}"
    return f"{scheme['bits']}b g{scheme['group_size']}"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def remarks(manifest: Mapping[str, Any]) -> list[str]:
    """Returns what must be known beside the figures: the coverage, what was left dense, and every warning."""
    lines = []
    coverage = manifest.get("coverage") or {}
    if removed := coverage.get("removed_parameters"):
        lines.append(f"removed: {removed:,} parameters, {percent(coverage['share_removed'])} of all")
    if "share_of_linears" in coverage:
        left = ", ".join(f"{reason} {count:,}" for reason, count in coverage["left_dense"].items())
        lines.append(
            f"compressed: {percent(coverage['share_of_linears'])} of the decoder's linear parameters, "
            f"{percent(coverage['share_of_model'])} of all {coverage['total_parameters']:,}"
        )
        lines.append(f"left dense: {left or 'nothing'}")
    return [*lines, *(f"warning: {text}" for text in manifest.get("warnings", ()))]
