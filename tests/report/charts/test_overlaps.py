"""No label of a chart lies over a bar, a point or another label, on a phone as on a desktop; none leaves the panel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest

from compress.report.charts import families, positions, scatter, svg
from compress.report.page import speed
from tests.support import runs
from tests.support.svg_boxes import boxes

WIDTHS = (280, 360, 640, 1060)
PADDING = 16
"""Room at the sides of a chart inside its panel."""


def _columns(means: list[float], step: int = 16) -> str:
    spans = [
        {"start": step * n, "end": step * (n + 1), "mean": mean, "tokens": 1_000_000} for n, mean in enumerate(means)
    ]
    return positions.columns(spans, sum(means) / len(means))


def _points(values: list[tuple[float, float]]) -> list[dict[str, Any]]:
    return [
        {"label": f"A spqr {n}", "curve": f"c{n}", "mark": chr(65 + n), "x": x, "y": y, "low": 0.8 * y, "high": 1.2 * y}
        for n, (x, y) in enumerate(values)
    ]


def _speeds() -> str:
    taken = dataclasses.asdict(runs.speed())
    return speed.bars(taken)


def _axis() -> str:
    scale = svg.Scale(-48.0, 12.0, 3.0, 97.0)
    return families.axis(scale)


ANSWERS = scatter.Axes("size on disk, MB", "mean score of 5 families, %", ("{:.1f}", "{:.1f}"), False, reference=98.3)
CHARTS: dict[str, Callable[[], str]] = {
    "columns that reach the top": lambda: _columns([0.24, 0.23, 0.25, 0.2, 0.2434] * 6),
    "columns of tiny values": lambda: _columns([0.00012, 0.0001, 0.00014] * 10, step=128),
    "columns of a broken model": lambda: _columns([1234.5, 2000.0, 9.0] * 4),
    "two sizes": lambda: scatter.scatter(_points([(84.2, 0.2179), (269.0, 0.0001)]), scatter.SIZE_AGAINST_KL),
    "ten sizes": lambda: scatter.scatter(_points([(40.0 + 9 * n, 0.5 / 2**n) for n in range(10)])),
    "large sizes": lambda: scatter.scatter(_points([(14_012.5, 0.02), (28_000.25, 0.3)]), scatter.SIZE_AGAINST_KL),
    "answers": lambda: scatter.scatter(_points([(1.61, 98.3), (2.06, 55.1)]), ANSWERS),
    "speeds": _speeds,
    "differences": _axis,
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", CHARTS)
def test_labels_lie_over_nothing(name: str, width: int) -> None:
    labels, shapes = boxes(CHARTS[name](), width)
    assert labels
    over = [(label.name, shape.name) for label in labels for shape in shapes if label.meets(shape)]
    assert not over
    assert not [(a.name, b.name) for a, b in combinations(labels, 2) if a.meets(b)]
    outside = [label.name for label in labels if label.left < -PADDING or label.right > width + PADDING]
    assert not outside


def test_an_overlap_is_seen() -> None:
    """Guards the test above."""
    bar = svg.element("rect", x="0.00%", y=10, width="50.00%", height=20, class_="packed")
    drawn = svg.svg(bar + svg.text("over", 10, 25) + svg.text("beside", 60, 25), 40, "a chart")
    labels, shapes = boxes(drawn, 300)
    assert [label.name for label in labels if label.meets(shapes[0])] == ["over"]
