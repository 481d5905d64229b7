"""Draws file size against divergence for the rows of docs/REAL.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

MARKS = {
    "compress": ("#1f5fbf", "o"),
    "llama.cpp": ("#c2571a", "s"),
    "llm-compressor": ("#7a7a7a", "^"),
    "GPTQModel": ("#2f8f5b", "v"),
    "AutoRound": ("#8a4fb0", "D"),
    "HQQ": ("#b0a030", "P"),
}
"""Project -> colour and marker."""
IMATRIX = ", imatrix"
LARGEST = 3.0
"""Rows with a larger divergence are as good as noise, and left out."""


def draw(rows: Sequence[dict[str, Any]], target: Path) -> None:
    """Writes the picture as SVG: megabytes of the files, mean KL on a logarithmic axis, 95 % intervals."""
    with matplotlib.rc_context({"svg.hashsalt": "compress", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        axes = figure.add_subplot(yscale="log")
        shown = [row for row in rows if "failed" not in row and row["kl"] <= LARGEST]
        best = _nearest(shown)
        for (project, with_imatrix), own in _grouped(shown).items():
            colour, marker = MARKS[project]
            x, y = [row["file_bytes"] / 1e6 for row in own], [row["kl"] for row in own]
            low, high = ([row["kl_interval"][place] for row in own] for place in (0, 1))
            errors = [[b - a for a, b in zip(low, y, strict=True)], [b - a for a, b in zip(y, high, strict=True)]]
            face = colour if project != "llama.cpp" or with_imatrix else "white"
            label = f"{project}, importance matrix" if with_imatrix else project
            axes.errorbar(x, y, errors, fmt=marker, color=colour, markerfacecolor=face, label=label, linewidth=1)
            for row in own:
                text = row["name"].removesuffix(IMATRIX)
                place, side = ((5, 3), "left") if project != "compress" else ((-5, -9 if row in best else 3), "right")
                axes.annotate(text, (row["file_bytes"] / 1e6, row["kl"]), place, textcoords="offset points",
                              color=colour, fontsize=7.5, horizontalalignment=side)  # fmt: skip
        axes.plot([row["file_bytes"] / 1e6 for row in best], [row["kl"] for row in best], color="#1f5fbf", alpha=0.25,
                  linewidth=6, zorder=0)  # fmt: skip
        axes.margins(x=0.18)
        axes.set_xlabel("size of the files with weights, MB (dense: 269)")
        axes.set_ylabel("KL to the dense model, nats per token")
        axes.grid(alpha=0.25, which="both")
        axes.legend(frameon=False)
        FigureCanvasSVG(figure).print_svg(str(target), metadata={"Date": None})


def _grouped(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, bool], list[dict[str, Any]]]:
    """Returns the rows by project, those of llama.cpp also by whether they were made with an importance matrix."""
    groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: list(MARKS).index(row["project"])):
        groups.setdefault((row["project"], row["name"].endswith(IMATRIX)), []).append(row)
    return groups


def _nearest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows that no smaller row beats, by size."""
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["file_bytes"], row["kl"])):
        if not best or row["kl"] < best[-1]["kl"]:
            best.append(row)
    return best
