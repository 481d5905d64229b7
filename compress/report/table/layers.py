"""Lists the layers of a checkpoint from its manifest alone. No torch.

All functions take a manifest as `report.manifest.checked` returns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from compress.format.scheme import Scheme
from compress.report import coverage as covered
from compress.report.formatting import percent, size

_INFORMATION = ("bits_per_weight", "outliers", "relative_error", "size_bytes", "tokens")


def layer_rows(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns one row per packed tensor, in the manifest's order, as `compress inspect --json` prints it.

    Values missing from the manifest are None.
    """
    return [
        {
            "layer": name,
            "role": entry.get("role"),
            "shape": list(entry["shape"]),
            "method": entry.get("method"),
            "layout": entry["scheme"]["layout"],
            "bits": entry["scheme"]["bits"],
            "group_size": entry["scheme"]["group_size"],
            **{key: entry.get(key) for key in _INFORMATION},
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
    roles = [row["role"] for row in rows if row["role"]]
    counted = ", ".join([f"{len(rows) - len(roles)} linears", *roles])
    table.add_column("layer", footer=counted, overflow="fold")
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
            _code(Scheme.from_dict(manifest["tensors"][row["layer"]]["scheme"])),
            _shown(row["bits_per_weight"], ".3f"),
            _shown(row["outliers"], ","),
            _shown(row["relative_error"], ".1e"),
            "" if row["size_bytes"] is None else size(row["size_bytes"]),
        )
    return table


def pruned_table(manifest: Mapping[str, Any]) -> Table | None:
    """Returns the rich table of the units removed from each layer; None for a checkpoint that was not pruned."""
    units = manifest.get("pruning", {}).get("units")
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


def remarks(manifest: Mapping[str, Any]) -> list[str]:
    """Returns the lines below the figures: what was removed, compressed and left dense, and every warning."""
    coverage = manifest.get("coverage", {})
    lines = {
        "removed": covered.removed(coverage),
        "compressed": covered.compressed(coverage),
        "outside the blocks": covered.outside(coverage),
        "left dense": covered.left_dense(coverage),
    }
    told = [f"{name}: {text}" for name, text in lines.items() if text is not None]
    return [*told, *(f"warning: {text}" for text in manifest.get("warnings", ()))]


def _code(scheme: Scheme) -> str:
    """Returns the code of a linear in a few characters, `3b g16`; of a composite one, the codes of its parts."""
    options = scheme.options
    if "rank" in options:
        left, right = (_code(Scheme.from_dict(options.get(part, {}))) for part in ("left", "right"))
        return f"rank {options['rank']} · {left if left == right else f'{left} · {right}'}"
    if "values" in options:
        return f"{options.get('n')}:{options.get('m')} · {_code(Scheme.from_dict(options['values']))}"
    if scheme.layout.startswith("dense"):
        return str(options.get("dtype", scheme.layout))
    code = str(options.get("element", f"{scheme.bits}b"))
    inputs = f", inputs {options['activations']}" if "activations" in options else ""
    return f"{code} g{scheme.group_size}{inputs}"


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
