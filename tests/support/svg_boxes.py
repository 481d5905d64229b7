"""Boxes of what a chart draws, computed from its SVG as a browser lays it out, for tests of overlaps."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from compress.report.charts.svg import INSET

CHARACTER = 7.4
"""Width of a character at 12 pixels: above the mean of wide sans serifs such as DejaVu Sans."""
ABOVE, BELOW = 9.5, 2.5
"""How far text at 12 pixels goes above and below its line."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels from the left upper corner of the chart."""

    name: str
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether both cover a common area."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


def boxes(drawn: str, width: float) -> tuple[list[Box], list[Box]]:
    """Returns (labels, shapes) of a chart `width` pixels wide. Shapes are bars and points; lines are left out.

    The letter inside a point belongs to it and is no label.
    """
    root = ElementTree.fromstring(drawn)
    start = INSET if "inset" in root.attrib["class"].split() else 0
    inner = width - start

    def across(value: str) -> float:
        return inner * float(value[:-1]) / 100 if value.endswith("%") else float(value)

    labels, shapes = [], []
    for each in root.iter():
        at, kind = each.attrib, each.tag
        if kind == "text" and at["class"] != "mark":
            text = "".join(each.itertext())
            long, x, y = CHARACTER * len(text), start + across(at["x"]), float(at["y"])
            left = {"start": x, "middle": x - long / 2, "end": x - long}[at["text-anchor"]]
            labels.append(Box(text, left, y - ABOVE, left + long, y + BELOW))
        elif kind == "rect":
            left, top = start + across(at["x"]), float(at["y"])
            shapes.append(Box(at["class"], left, top, left + across(at["width"]), top + float(at["height"])))
        elif kind == "circle":
            x, y, r = start + across(at["cx"]), float(at["cy"]), float(at["r"])
            shapes.append(Box(at["class"], x - r, y - r, x + r, y + r))
    return labels, shapes
