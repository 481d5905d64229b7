"""SVG elements and scales for charts of any width: x is in per cent, y and sizes in pixels, so text never shrinks.

Colours are CSS classes, so a chart follows the theme of the page. Every chart has a title that describes it; its
figures are also in a table beside it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

_STEPS = (1.0, 2.0, 5.0)
INSET = 52
"""Pixels left of a chart with `inset`, where the labels of its vertical axis are: never over what is drawn."""


def element(name: str, content: str = "", **attributes: object) -> str:
    """Returns one SVG element; a trailing underscore of an attribute's name is dropped, others become hyphens."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{written}>{content}</{name}>"


def text(content: str, x: float, y: float, *, anchor: str = "start", class_: str = "quiet") -> str:
    """Returns text at `x` per cent and `y` pixels."""
    return element("text", html.escape(content), x=percent(x), y=f"{y:g}", text_anchor=anchor, class_=class_)


def tick_label(content: str, y: float) -> str:
    """Returns the label of a tick of the vertical axis, left of a chart with `inset`."""
    return element("text", html.escape(content), x=-8, y=f"{y + 4:g}", text_anchor="end", class_="quiet")


def axis_title(content: str) -> str:
    """Returns the name of the vertical axis, above a chart with `inset`."""
    return element("text", html.escape(content), x=-INSET, y=12, text_anchor="start", class_="axis")


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """Returns a line, across in per cent, down in pixels."""
    return element("line", x1=percent(x1), y1=f"{y1:.1f}", x2=percent(x2), y2=f"{y2:.1f}", class_=class_)


def svg(content: str, height: float, title: str, *, inset: bool = False) -> str:
    """Returns a chart as wide as its container and `height` pixels high, with a title for screen readers.

    With `inset` what is drawn begins `INSET` pixels right of the container's edge.
    """
    name, class_ = element("title", html.escape(title)), "chart inset" if inset else "chart"
    return element(
        "svg", name + content, class_=class_, width="100%", height=f"{height:g}", role="img", aria_label=title
    )


def percent(value: float) -> str:
    """Returns an x coordinate or width in SVG's per cent."""
    return f"{value:.2f}%"


class Scale:
    """Maps a range of values to a range of coordinates, linearly or logarithmically."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        if log and low <= 0:
            raise ValueError(f"a logarithmic scale from {low}")
        self.low, self.high, self.log = low, high, log
        self._map: Callable[[float], float] = math.log10 if log else float
        a, b = self._map(low), self._map(high)
        self._factor = (end - start) / (b - a) if b > a else 0.0
        self._start, self._first = start, a

    def __call__(self, value: float) -> float:
        return self._start + (self._map(value) - self._first) * self._factor

    def ticks(self, most: int = 6) -> list[float]:
        """Returns at most `most` round values within the range."""
        return _log_ticks(self.low, self.high, most) if self.log else _ticks(self.low, self.high, most)


def around(values: Sequence[float], *, log: bool = False, room: float = 0.08) -> tuple[float, float]:
    """Returns a range around the values with a margin of `room` (a share of its span), never empty."""
    low, high = min(values), max(values)
    if log:
        span = max(math.log10(high / low), 0.3)
        return low / 10 ** (room * span), high * 10 ** (room * span)
    span = max(high - low, 0.1 * abs(high), 1e-9)
    return low - room * span, high + room * span


def number(value: float) -> str:
    """Returns the value of a tick with up to four digits and a true minus."""
    return f"{value:.4g}".replace("-", "−")


def _ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / max(most - 1, 1)
    if raw <= 0:
        return [low]
    base = 10.0 ** math.floor(math.log10(raw))
    step = next((base * s for s in (*_STEPS, 10.0) if base * s >= raw * (1 - 1e-9)), base * 10)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    for steps in (_STEPS, (1.0, 3.0), (1.0,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        values = [s * 10.0**p for p in powers for s in steps if low <= s * 10.0**p <= high]
        if len(values) <= most:
            break
    return values or [low, high]
