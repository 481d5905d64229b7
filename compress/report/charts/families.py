"""Draws the scores of a family as bars, dense above compressed, and its paired difference with the interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.charts import svg
from compress.report.charts.svg import element, percent
from compress.report.formatting import label, points, signed

_BAR, _GAP = 13, 4
_STRIP = 34
_EDGE = 3.0
"""Margin at both ends of a strip, in per cent of its width."""


def bars(family: Mapping[str, Any]) -> str:
    """Returns the bars of a score from 0 to 1, with a mark at the score of guessing."""
    shown = [("dense", family["dense"]), ("packed", family["score"])]
    parts, y = [], 1.0
    for class_, value in ((name, value) for name, value in shown if value is not None):
        parts.append(element("rect", x=0, y=y, width="100%", height=_BAR, rx=2, class_="empty"))
        filled = percent(100 * min(max(value, 0.0), 1.0))
        parts.append(element("rect", x=0, y=y, width=filled, height=_BAR, rx=2, class_=class_))
        y += _BAR + _GAP
    if family["chance"]:
        parts.append(svg.line(100 * family["chance"], 0, 100 * family["chance"], y, "chance"))
    scores = ", ".join(
        f"{'dense' if name == 'dense' else 'compressed'} {100 * v:.1f} %" for name, v in shown if v is not None
    )
    return svg.svg("".join(parts), y, f"{label(family['name'])}: {scores}")


def reach(families: Sequence[Mapping[str, Any]]) -> svg.Scale | None:
    """Returns the scale of the strips of all families, in points; None if none is paired."""
    paired = [family["paired"] for family in families if family["paired"]]
    if not paired:
        return None
    low = min(0.0, *(100 * p["low"] for p in paired))
    high = max(0.0, *(100 * p["high"] for p in paired))
    room = max(2.0, 0.06 * (high - low))
    return svg.Scale(low - room, high + room, _EDGE, 100 - _EDGE)


def strip(family: Mapping[str, Any], scale: svg.Scale) -> str:
    """Returns the difference as a dot on its interval, beside the line of no difference."""
    paired = family["paired"]
    low, middle, high = (scale(100 * paired[key]) for key in ("low", "difference", "high"))
    y = _STRIP / 2
    class_ = verdict(paired)
    parts = [svg.line(scale(tick), 0, scale(tick), _STRIP, "zero" if tick == 0 else "grid") for tick in scale.ticks()]
    parts += [svg.line(low, y, high, y, f"span {class_}")]
    parts += [svg.line(end, y - 5, end, y + 5, f"span {class_}") for end in (low, high)]
    parts.append(element("circle", cx=percent(middle), cy=y, r=5, class_=class_))
    low_end, high_end = points(paired["low"]), points(paired["high"])
    summary = f"difference {points(paired['difference'])} points, interval {low_end} to {high_end}"
    return svg.svg("".join(parts), _STRIP, f"{label(family['name'])}: {summary}")


def axis(scale: svg.Scale) -> str:
    """Returns the ticks below the strips."""
    ticks = scale.ticks()
    marks = [svg.text(signed(tick, 0), scale(tick), 12, anchor="middle") for tick in ticks]
    return element("svg", "".join(marks), class_="chart", width="100%", height=16, aria_hidden="true")


def verdict(paired: Mapping[str, Any]) -> str:
    """Returns `loss` or `gain` if the interval excludes zero, else `open`."""
    return "loss" if paired["high"] < 0 else "gain" if paired["low"] > 0 else "open"
