"""Draws the scores of all families in one picture that needs no style sheet, for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.charts.palette import LIGHT
from compress.report.charts.svg import element
from compress.report.formatting import difference, label, percent

_WIDTH, _ROW, _TOP = 720, 40, 26
_BARS, _LONG = 150, 300
"""Left edge and length of the bars, in pixels."""
_HEIGHT = 13


def summary(families: Sequence[Mapping[str, Any]]) -> str:
    """Returns bars of the scores from 0 to 1, dense above compressed, with the paired difference beside them.

    Args:
        families: the families of a run's content, as `page.content.of_run` has them.
    """
    parts = [_text("dense", _BARS + 18, 12), _key("dense", _BARS), _text("compressed", _BARS + 98, 12),
             _key("packed", _BARS + 80), _text("difference, points [95 %]", _WIDTH - 230, 12)]  # fmt: skip
    for row, family in enumerate(families):
        y = _TOP + row * _ROW
        parts.append(_text(label(family["name"]), 0, y + 18))
        for place, (colour, score) in enumerate((("dense", family["dense"]), ("packed", family["score"]))):
            if score is not None:
                long = _LONG * min(max(score, 0.0), 1.0)
                top = y + place * (_HEIGHT + 2)
                parts.append(_rect(colour, _BARS, top, long, _HEIGHT))
        if (paired := family["paired"]) is not None:
            said = difference(paired["difference"], paired["low"], paired["high"])
            parts.append(_text(said, _WIDTH - 230, y + 18))
    listed = "; ".join(_described(family) for family in families)
    return element(
        "svg", "".join(parts), width=_WIDTH, height=_TOP + _ROW * len(families), role="img", aria_label=listed,
        style="max-width: 100%", font_size="12", font_family="sans-serif",
    )  # fmt: skip


def _described(family: Mapping[str, Any]) -> str:
    dense = "" if family["dense"] is None else f"dense {percent(family['dense'])}, "
    return f"{label(family['name'])}: {dense}compressed {percent(family['score'])}"


def _text(content: str, x: float, y: float) -> str:
    return element("text", html.escape(content), x=x, y=y, fill="currentColor")


def _rect(colour: str, x: float, y: float, width: float, height: float) -> str:
    return element("rect", x=x, y=y, width=f"{width:.1f}", height=height, fill=LIGHT[colour])


def _key(colour: str, x: float) -> str:
    return _rect(colour, x, 3, 12, 9)
