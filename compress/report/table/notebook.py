"""Writes the table *dense vs compressed* as HTML for notebooks, with the whole report folded below it."""

from __future__ import annotations

import html

from compress.report.table.overview import Overview

_SUMMARY = "The whole report"
_RIGHT = ' style="text-align: right"'


def render(overview: Overview, page: str | None = None) -> str:
    """Returns the overview as an HTML fragment without styles, scripts or links of its own.

    `page` is a whole HTML page; it is put into a frame, so neither its styles nor its script reach the notebook.
    """
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
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{remarks}{_framed(page) if page else ''}"
    )


def _framed(page: str) -> str:
    return (
        f"<details><summary>{_SUMMARY}</summary><iframe sandbox='allow-scripts' title='{_SUMMARY}' loading='lazy' "
        f'style="width: 100%; height: 40em; border: 1px solid #8888" srcdoc="{html.escape(page)}"></iframe></details>'
    )
