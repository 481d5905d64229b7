"""The table *dense vs compressed* on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from compress.report.comparison import HEADER, Comparison

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(comparison: Comparison) -> RenderableType:
    """Returns the comparison as something that rich prints, 80 columns or wider."""
    table = Table(title=comparison.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(HEADER):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for section in comparison.sections:
        for row in section:
            table.add_row(*row.cells[:2], Text(row.compressed, style="bold"), *row.cells[3:])
        table.add_section()
    return Group(table, *(Padding(Text(remark), (0, 0, 0, 1)) for remark in comparison.remarks))
