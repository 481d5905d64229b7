"""The table *dense vs compressed* as HTML for notebooks."""

from __future__ import annotations

import html

from compress.report.comparison import HEADER, Comparison

_RIGHT = ' style="text-align: right"'


def render(comparison: Comparison) -> str:
    """Returns the comparison as an HTML fragment without styles, scripts or links of its own."""
    head = "".join(f"<th{_RIGHT}>{name}</th>" for name in HEADER)
    body = "".join(
        f"<tr><th>{html.escape(row.label)}</th>"
        + "".join(f"<td{_RIGHT}>{html.escape(cell)}</td>" for cell in row.cells[1:])
        + "</tr>"
        for section in comparison.sections
        for row in section
    )
    remarks = "".join(f"<div>{html.escape(remark)}</div>" for remark in comparison.remarks)
    return (
        f"<table><caption>{html.escape(comparison.title)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{remarks}"
    )
