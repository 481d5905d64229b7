"""The table *dense vs compressed* as HTML for notebooks."""

from __future__ import annotations

import html

from compress.report.overview import Overview

_RIGHT = ' style="text-align: right"'


def render(overview: Overview) -> str:
    """Returns the overview as an HTML fragment without styles, scripts or links of its own."""
    head = "".join(f"<th{_RIGHT}>{name}</th>" for name in overview.header)
    body = "".join(
        f"<tr><th>{html.escape(row[0])}</th>"
        + "".join(f"<td{_RIGHT}>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for section in overview.sections
        for row in section
    )
    remarks = "".join(f"<div>{html.escape(remark)}</div>" for remark in overview.remarks)
    return (
        f"<table><caption>{html.escape(overview.title)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{remarks}"
    )
