"""Draws the table *dense vs compressed* on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from compress.report.table.overview import Overview


def render(overview: Overview) -> RenderableType:
    """Returns the overview for rich to print; the table fits 80 columns."""
    title = Text(overview.title, style="bold")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for index, name in enumerate(overview.header):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for section in overview.sections:
        for row in section:
            table.add_row(*(Text(cell) for cell in row))
        table.add_section()
    return Group("", title, table, "", *map(Text, overview.remarks))
