"""Arranges the layers of a checkpoint as a grid, blocks × kinds of linears, from the manifest alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.layer_names import block_and_kind
from compress.report.table.layers import layer_rows

Rows = Sequence[Mapping[str, Any]]


def grid(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns `blocks`, `kinds` and `cells` (a row per kind, with a cell or None per block); None if nothing is packed.

    A cell stands for one linear, or for all experts of a projection: `count`, `bits` (over all their weights),
    `error` (mean), `error_of` (outputs or weights), `outliers` (share of the weights kept apart), `layout`, `name`,
    `size_bytes`.
    """
    rows = [row for row in layer_rows(manifest) if row["role"] is None]  # embedding and head are in no block
    if not rows:
        return None
    positions = {row["layer"]: block_and_kind(row["layer"]) for row in rows}
    blocks = list(dict.fromkeys(block for block, _ in positions.values()))
    kinds = list(dict.fromkeys(kind for _, kind in positions.values()))
    by_cell: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        block, kind = positions[row["layer"]]
        by_cell.setdefault((kind, block), []).append(row)
    error_of = {name: entry.get("error_of", "outputs") for name, entry in manifest["tensors"].items()}
    cells = [
        [_cell(by_cell[kind, block], error_of) if (kind, block) in by_cell else None for block in blocks]
        for kind in kinds
    ]
    return {"blocks": blocks, "kinds": kinds, "cells": cells}


def _cell(rows: Rows, error_of: Mapping[str, str]) -> dict[str, Any]:
    weights = sum(row["shape"][0] * row["shape"][1] for row in rows)
    sizes = [row["size_bytes"] for row in rows]
    errors = [row["relative_error"] for row in rows if row["relative_error"] is not None]
    known = None not in sizes
    return {
        "name": rows[0]["layer"] if len(rows) == 1 else f"{rows[0]['layer']} … {rows[-1]['layer']}",
        "count": len(rows),
        "layout": " ".join(dict.fromkeys(row["layout"] for row in rows)),
        "size_bytes": sum(sizes) if known else None,
        "bits": 8 * sum(sizes) / weights if known else None,
        "error": sum(errors) / len(errors) if errors else None,
        "error_of": error_of[rows[0]["layer"]],
        "outliers": sum(row["outliers"] or 0 for row in rows) / weights,
    }
