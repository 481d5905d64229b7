"""Makes heat maps, blocks × linears, as tables: every cell has a colour step, a figure, and a description."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compress.report.charts.palette import HEAT_STEPS

_FEW = 12
"""Largest number of blocks for which the figures fit into the cells."""
_LEAST_RATIO = 4.0
"""Least ratio between the ends of a logarithmic scale, so that nearly equal values get nearly equal colours."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell; `step` is None for an empty one."""

    step: int | None
    shown: str
    description: str


@dataclass(frozen=True, slots=True)
class Heat:
    """One heat map."""

    key: str
    title: str
    note: str
    low: str
    high: str
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    columns: tuple[str, ...]
    figures: bool
    """Whether the figures fit into the cells."""


def heats(grid: Mapping[str, Any]) -> list[Heat]:
    """Returns the maps of a grid (`page.layers.grid`): bits, error, and outliers if there are any."""
    cells = [cell for row in grid["cells"] for cell in row if cell]
    of = "outputs" if any(cell["error_of"] == "outputs" for cell in cells) else "weights"
    maps = [
        _heat(grid, "bits", "Bits per weight", "as stored, scales and outliers counted", least_span=1.0),
        _heat(grid, "error", "Relative error", f"squared, of the {of}, per cent", log=True),
        _heat(grid, "outliers", "Outliers", "kept apart, per cent of the weights"),
    ]
    return [heat for heat in maps if heat is not None]


def _heat(
    grid: Mapping[str, Any], key: str, title: str, note: str, *, log: bool = False, least_span: float = 0.0
) -> Heat | None:
    values = [cell[key] for row in grid["cells"] for cell in row if cell and cell[key] is not None]
    positive = [value for value in values if value > 0]
    if not positive:
        return None
    low, high = 0.0 if key == "outliers" else min(positive if log else values), max(values)
    top = max(high, low + least_span)
    if log and high < low * _LEAST_RATIO:  # errors that are alike get the middle of the scale
        middle = math.sqrt(low * high)
        low, top = middle / math.sqrt(_LEAST_RATIO), middle * math.sqrt(_LEAST_RATIO)

    def step(value: float) -> int:
        if log:
            share = math.log(max(value, low) / low) / math.log(top / low)
        else:
            share = (value - low) / (top - low) if top > low else 0.0
        return min(int(share * HEAT_STEPS), HEAT_STEPS - 1)

    def make_cell(cell: Mapping[str, Any] | None, kind: str, block: str) -> Cell:
        if cell is None or cell[key] is None:
            return Cell(None, "–", f"{block}, {kind}: nothing packed" if cell is None else f"{cell['name']}: not known")
        many = f" ({cell['count']} of them)" if cell["count"] > 1 else ""
        return Cell(
            step(cell[key]), figure(key, cell[key]), f"{cell['name']}{many}: {figure(key, cell[key], full=True)}"
        )

    short = [kind.rpartition(".")[2] for kind in grid["kinds"]]
    labels = short if len(set(short)) == len(short) else grid["kinds"]  # GPT-2 has a c_proj twice
    rows = tuple(
        (label, tuple(make_cell(cell, kind, block) for cell, block in zip(row, grid["blocks"], strict=True)))
        for label, kind, row in zip(labels, grid["kinds"], grid["cells"], strict=True)
    )
    columns = tuple(block.rpartition(".")[2] for block in grid["blocks"])
    return Heat(key, title, note, figure(key, low), figure(key, top), rows, columns, len(columns) <= _FEW)


def figure(key: str, value: float, *, full: bool = False) -> str:
    """Returns a figure as a cell shows it (bits, or per cent), or in full with its unit."""
    if key == "bits":
        return f"{value:.3f} bits per weight" if full else f"{value:.2f}"
    if key == "error":
        return f"relative error {value:.2e}" if full else _short(100 * value)
    return f"{100 * value:.3f} % of the weights" if full else _short(100 * value)


def _short(value: float) -> str:
    """Two digits or three in five characters at most: `10.4`, `0.041`, `4e-3`, `0`."""
    if not value:
        return "0"
    if value < 0.01:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
