"""Draws size or bits against quality, one point per run."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from compress.report.charts import svg
from compress.report.charts.palette import RUNS
from compress.report.charts.svg import element, percent

_HEIGHT, _TOP, _BOTTOM = 340, 34, 46
_RADIUS = 6
Point = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Axes:
    """What is drawn against what."""

    x: str
    """Name of the horizontal axis, with its unit."""
    y: str
    """Name of the vertical axis, with its unit."""
    short: tuple[str, str]
    """Forms of a value on each axis, for descriptions: `{:.2f} bits`."""
    log: bool
    """Whether the vertical axis is logarithmic; values are then 0 or more."""
    reference: float | None = None
    """Height of a line that stands for the dense model; None for no line."""


BITS_AGAINST_KL = Axes("stored bits per weight of the linears", "KL to dense, nats per token (log)",
                       ("{:.2f} bits per weight", "KL {:.4f}"), log=True)  # fmt: skip
SIZE_AGAINST_KL = Axes("size on disk, MB", "KL to dense, nats per token (log)", ("{:.1f} MB", "KL {:.4f}"), log=True)


def scatter(points: Sequence[Point], axes: Axes = BITS_AGAINST_KL) -> str:
    """Returns the chart of points with `label`, `curve`, `mark`, `x`, `y`, `low` and `high` (the interval of `y`).

    Points of one curve are joined. `mark` is a letter inside the point, or empty. A curve named `spqr+block` has the
    colour of `spqr` and hollow points.
    """
    xs = svg.Scale(*svg.around([p["x"] for p in points]), 0.0, 100.0)
    floor = min((p["y"] for p in points if p["y"] > 0), default=1e-6) / 2 if axes.log else float("-inf")
    heights = [max(value, floor) for p in points for value in (p["y"], p["low"], p["high"])]
    heights += [] if axes.reference is None else [axes.reference]
    ys = svg.Scale(*svg.around(heights, log=axes.log), _HEIGHT - _BOTTOM, _TOP, log=axes.log)
    parts = [*_axes(xs, ys, axes)]
    for curve, colour, hollow in curves(points):
        class_ = f"run-{colour}{' hollow' if hollow else ''}"
        on = sorted((p for p in points if p["curve"] == curve), key=lambda p: p["x"])
        spots = [(xs(p["x"]), ys(max(p["y"], floor))) for p in on]
        parts += [svg.line(*a, *b, f"curve {class_}") for a, b in pairwise(spots)]
        for point, (x, y) in zip(on, spots, strict=True):
            low, high = (ys(max(point[end], floor)) for end in ("low", "high"))
            parts += [svg.line(x, low, x, high, f"whisker {class_}"), _spot(point, x, y, class_, axes)]
    listed = "; ".join(_described(p, axes) for p in points)
    return svg.svg("".join(parts), _HEIGHT, f"{axes.y.partition(',')[0]} against {axes.x}. {listed}", inset=True)


def curves(points: Sequence[Point]) -> list[tuple[str, int, bool]]:
    """Returns (name, index of the colour, whether hollow) of the curves, in the order of a legend."""
    names = list(dict.fromkeys(p["curve"] for p in points))
    plain = list(dict.fromkeys(name.partition("+")[0] for name in names))
    return [(name, plain.index(name.partition("+")[0]) % RUNS, "+" in name) for name in names]


def _described(point: Point, axes: Axes) -> str:
    x, y = (form.format(point[key]) for form, key in zip(axes.short, ("x", "y"), strict=True))
    return f"{point['label']}: {x}, {y}"


def _spot(point: Point, x: float, y: float, class_: str, axes: Axes) -> str:
    title = element("title", html.escape(_described(point, axes)))
    mark = point["mark"]
    radius = 9 if mark else _RADIUS if point.get("best") else _RADIUS - 2
    spot = element("circle", title, cx=percent(x), cy=f"{y:.1f}", r=radius, class_=f"spot {class_}")
    if mark:
        spot += element("text", html.escape(mark), x=percent(x), y=f"{y + 4:.1f}", text_anchor="middle", class_="mark")
    return spot


def _axes(xs: svg.Scale, ys: svg.Scale, axes: Axes) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    parts = [svg.axis_title(axes.y)]
    for tick in ys.ticks():
        parts += [svg.line(0, ys(tick), 100, ys(tick), "grid"), svg.tick_label(svg.number(tick), ys(tick))]
    for tick in xs.ticks(5):
        parts += [svg.line(xs(tick), bottom, xs(tick), bottom + 4, "tick")]
        parts.append(svg.text(svg.number(tick), xs(tick), bottom + 18, anchor="middle"))
    parts.append(svg.line(0, bottom, 100, bottom, "tick"))
    parts.append(svg.text(axes.x, 100, bottom + 38, anchor="end", class_="axis"))
    if axes.reference is not None:
        parts.append(svg.line(0, ys(axes.reference), 100, ys(axes.reference), "mean"))
        parts.append(svg.text("- - dense", 100, 12, anchor="end"))
    return parts
