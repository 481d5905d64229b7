"""Draws file size against divergence for the rows of docs/REAL.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

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
PLACES = [(side * (6 + far), height) for far in (0, 14, 28) for height in (3, -9, 11, -17, 19, -25) for side in (1, -1)]
"""Where a label may stand, in points from its mark, best first: right or left, near or farther away."""


def draw(rows: Sequence[dict[str, Any]], target: Path) -> None:
    """Writes the picture as SVG: megabytes of the files, mean KL on a logarithmic axis, 95 % intervals."""
    with matplotlib.rc_context({"svg.hashsalt": "compress", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 5.6), dpi=72, layout="constrained")
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
        axes.plot([row["file_bytes"] / 1e6 for row in best], [row["kl"] for row in best], color="#1f5fbf", alpha=0.25,
                  linewidth=6, zorder=0)  # fmt: skip
        axes.margins(x=0.18)
        axes.set_xlabel("size of the files with weights, MB (dense: 269)")
        axes.set_ylabel("KL to the dense model, nats per token")
        axes.grid(alpha=0.25, which="both")
        axes.legend(frameon=False)
        _label(figure, axes, shown)
        FigureCanvasSVG(figure).print_svg(str(target), metadata={"Date": None})


def _label(figure: Figure, axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Writes each row's name at the first place where it covers no mark and no other name."""
    canvas = FigureCanvasAgg(figure)  # knows the size of words
    canvas.draw()  # lays the axes out, so that places in pixels are known
    marks = axes.transData.transform([(row["file_bytes"] / 1e6, row["kl"]) for row in rows])
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in marks]
    for row in sorted(rows, key=lambda row: row["project"] != "compress"):
        for x, y in PLACES if row["project"] != "compress" else [(-x, y) for x, y in PLACES]:
            line = {"arrowstyle": "-", "linewidth": 0.4, "color": "#999999"} if abs(x) > 6 or y not in (3, -9) else None
            text = axes.annotate(
                row["name"].removesuffix(IMATRIX), (row["file_bytes"] / 1e6, row["kl"]), (x, y),
                textcoords="offset points", color=MARKS[row["project"]][0], fontsize=7.5,
                horizontalalignment="left" if x > 0 else "right",
                arrowprops=line,
            )  # fmt: skip
            text.update_positions(canvas.get_renderer())
            box = Text.get_window_extent(text)  # of the words alone, without the line
            if not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:
            raise ValueError(f"no place for the name {row['name']!r}")
        taken.append(box)


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
