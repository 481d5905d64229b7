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
LARGEST = 3.0
"""Rows with a larger divergence are as good as noise, and left out."""


def draw(rows: Sequence[dict[str, Any]], target: Path) -> None:
    """Writes the picture as SVG: megabytes of the files, mean KL on a logarithmic axis, 95 % intervals."""
    with matplotlib.rc_context({"svg.hashsalt": "compress", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        axes = figure.add_subplot(yscale="log")
        shown = [row for row in rows if "failed" not in row and row["kl"] <= LARGEST]
        for project, (colour, marker) in MARKS.items():
            own = [row for row in shown if row["project"] == project]
            if not own:
                continue
            x, y = [row["file_bytes"] / 1e6 for row in own], [row["kl"] for row in own]
            errors = [
                [row["kl"] - row["kl_interval"][0] for row in own],
                [row["kl_interval"][1] - row["kl"] for row in own],
            ]
            axes.errorbar(x, y, errors, fmt=marker, color=colour, label=project, markersize=6, linewidth=1)
            for row in own:
                axes.annotate(
                    row["name"], (row["file_bytes"] / 1e6, row["kl"]), (5, 3), textcoords="offset points",
                    color=colour, fontsize=7.5,
                )  # fmt: skip
        best = _nearest(shown)
        axes.plot([row["file_bytes"] / 1e6 for row in best], [row["kl"] for row in best], color="#1f5fbf", alpha=0.25,
                  linewidth=6, zorder=0)  # fmt: skip
        axes.set_xlabel("size of the files with weights, MB (dense: 269)")
        axes.set_ylabel("KL to the dense model, nats per token")
        axes.grid(alpha=0.25, which="both")
        axes.legend(frameon=False)
        FigureCanvasSVG(figure).print_svg(str(target), metadata={"Date": None})


def _nearest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows that no smaller row beats, by size."""
    best: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["file_bytes"], row["kl"])):
        if not best or row["kl"] < best[-1]["kl"]:
            best.append(row)
    return best
