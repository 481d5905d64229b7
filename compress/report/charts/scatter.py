"""Draws the divergence against true bits per weight, one point per run."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from compress.report.charts import svg
from compress.report.charts.palette import RUNS
from compress.report.charts.svg import element, percent

_HEIGHT, _TOP, _BOTTOM = 340, 44, 40
_LEFT, _RIGHT = 9.0, 97.0
_RADIUS = 6
Point = Mapping[str, Any]


def scatter(points: Sequence[Point]) -> str:
    """Returns the chart of points with `label`, `curve`, `mark`, `bits`, `kl`, `low` and `high` (nats per token).

    Points of one curve are joined. `mark` is a letter inside the point, or empty. A curve named `spqr+block` has the
    colour of `spqr` and hollow points.
    """
    xs = svg.Scale(*svg.around([p["bits"] for p in points]), _LEFT, _RIGHT)
    floor = min(p["kl"] for p in points if p["kl"] > 0) if any(p["kl"] > 0 for p in points) else 1e-6
    heights = [max(value, floor / 2) for p in points for value in (p["kl"], p["low"], p["high"])]
    ys = svg.Scale(*svg.around(heights, log=True), _HEIGHT - _BOTTOM, _TOP, log=True)
    parts = [*_axes(xs, ys)]
    for curve, colour, hollow in curves(points):
        class_ = f"run-{colour}{' hollow' if hollow else ''}"
        on = sorted((p for p in points if p["curve"] == curve), key=lambda p: p["bits"])
        spots = [(xs(p["bits"]), ys(max(p["kl"], floor / 2))) for p in on]
        parts += [svg.line(*a, *b, f"curve {class_}") for a, b in pairwise(spots)]
        for point, (x, y) in zip(on, spots, strict=True):
            low, high = (ys(max(point[end], floor / 2)) for end in ("low", "high"))
            parts += [svg.line(x, low, x, high, f"whisker {class_}"), _spot(point, x, y, class_)]
    listed = "; ".join(f"{p['label']}: {p['bits']:.2f} bits, KL {p['kl']:.4f}" for p in points)
    return svg.svg("".join(parts), _HEIGHT, f"Divergence against true bits per weight. {listed}")


def curves(points: Sequence[Point]) -> list[tuple[str, int, bool]]:
    """Returns (name, index of the colour, whether hollow) of the curves, in the order of a legend."""
    names = list(dict.fromkeys(p["curve"] for p in points))
    plain = list(dict.fromkeys(name.partition("+")[0] for name in names))
    return [(name, plain.index(name.partition("+")[0]) % RUNS, "+" in name) for name in names]


def _spot(point: Point, x: float, y: float, class_: str) -> str:
    title = element(
        "title", html.escape(f"{point['label']}: {point['bits']:.3f} bits per weight, KL {point['kl']:.4f}")
    )
    mark = point["mark"]
    radius = 9 if mark else _RADIUS if point.get("best") else _RADIUS - 2
    spot = element("circle", title, cx=percent(x), cy=f"{y:.1f}", r=radius, class_=f"spot {class_}")
    if mark:
        spot += element("text", html.escape(mark), x=percent(x), y=f"{y + 4:.1f}", text_anchor="middle", class_="mark")
    return spot


def _axes(xs: svg.Scale, ys: svg.Scale) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    parts = [svg.text("KL to the dense model, nats per token (log)", 0, 12, class_="axis")]
    for tick in ys.ticks():
        parts += [svg.line(0, ys(tick), 100, ys(tick), "grid"), svg.text(svg.number(tick), 0, ys(tick) - 4)]
    for tick in xs.ticks(7):
        parts += [svg.line(xs(tick), bottom, xs(tick), bottom + 4, "tick")]
        parts.append(svg.text(svg.number(tick), xs(tick), bottom + 18, anchor="middle"))
    parts.append(svg.line(0, bottom, 100, bottom, "tick"))
    parts.append(svg.text("stored bits per weight of the linears", 100, bottom + 34, anchor="end", class_="axis"))
    return parts
