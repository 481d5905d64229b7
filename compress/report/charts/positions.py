"""Draws the KL to the dense model by position: after little context and after much."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.charts import svg
from compress.report.charts.svg import element, percent

_HEIGHT, _TOP, _BOTTOM = 230, 44, 46


def columns(spans: Sequence[Mapping[str, Any]], mean: float) -> str:
    """Returns a chart: a column per span (`start`, `end`, `mean` in nats per token, `tokens`) and a line at `mean`."""
    bottom = _HEIGHT - _BOTTOM
    xs = svg.Scale(spans[0]["start"], spans[-1]["end"], 0.0, 100.0)
    ys = svg.Scale(0.0, max([mean, *(span["mean"] for span in spans)]) * 1.05 or 1.0, bottom, _TOP)
    parts = [svg.axis_title("KL to dense, nats per token")]
    for tick in ys.ticks(5):
        parts += [svg.line(0, ys(tick), 100, ys(tick), "grid" if tick else "tick")]
        parts.append(svg.tick_label(svg.number(tick), ys(tick)))
    for span in spans:
        left, right, top = xs(span["start"]), xs(span["end"]), ys(span["mean"])
        description = (
            f"positions {span['start']} to {span['end'] - 1}: {span['mean']:.4f} over {span['tokens']:,} tokens"
        )
        box = {"x": percent(left), "width": percent(0.86 * (right - left)), "y": f"{top:.1f}"}
        title = element("title", html.escape(description))
        parts.append(element("rect", title, **box, height=f"{max(bottom - top, 0):.1f}", class_="packed"))
    parts += [svg.line(0, ys(mean), 100, ys(mean), "mean")]
    parts.append(svg.text(f"- - mean {mean:.4f}", 100, 30, anchor="end"))
    for tick in xs.ticks(5):
        parts.append(svg.text(svg.number(tick), xs(tick), bottom + 16, anchor=_anchor(xs, tick)))
    parts.append(svg.text("position in the window, tokens", 100, bottom + 36, anchor="end", class_="axis"))
    first, last = spans[0], spans[-1]
    summary = f"{first['mean']:.4f} at the first positions, {last['mean']:.4f} at the last, {mean:.4f} on average"
    return svg.svg("".join(parts), _HEIGHT, f"KL to dense by position: {summary}", inset=True)


def _anchor(scale: svg.Scale, tick: float) -> str:
    return "start" if tick == scale.low else "end" if tick == scale.high else "middle"
