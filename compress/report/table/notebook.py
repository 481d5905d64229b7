"""Writes a result as HTML for notebooks: table, picture of the scores, sample answers, and folded the whole report."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from compress.report.charts.summary import summary
from compress.report.table.overview import Overview

_SUMMARY = "The whole report"
_RIGHT = ' style="text-align: right"'
_LEFT = ' style="text-align: left"'
_SIDES = ("question", "dense", "compressed")
_SAMPLES = 4
_LONGEST = 160
"""Characters of a cell."""


def render(
    overview: Overview,
    page: str | None = None,
    families: Sequence[Mapping[str, Any]] = (),
    samples: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Returns the overview as an HTML fragment without style sheets, scripts or links of its own.

    Args:
        overview: the table.
        page: a whole HTML page; it is put into a frame, so neither its styles nor its script reach the notebook.
        families: families of a run's content (`page.content.of_run`), for the picture; none for no picture.
        samples: sample answers of a run's content; the first few are shown.
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
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{remarks}"
        f"{_pictured(families)}{_answered(samples[:_SAMPLES])}{_framed(page) if page else ''}"
    )


def _pictured(families: Sequence[Mapping[str, Any]]) -> str:
    return f'<div style="margin: 1em 0">{summary(families)}</div>' if families else ""


def _answered(samples: Sequence[Mapping[str, Any]]) -> str:
    if not samples:
        return ""
    rows = "".join(
        "<tr>" + "".join(f"<td{_LEFT}>{html.escape(_short(sample[key]))}</td>" for key in _SIDES) + "</tr>"
        for sample in samples
    )
    head = "".join(f"<th{_LEFT}>{name}</th>" for name in _SIDES)
    return f"<table><caption>Sample answers</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _short(text: str | None) -> str:
    """Returns the end of a text of several lines or sentences, which a cell has room for."""
    shown = " ".join((text or "").split())
    return shown if len(shown) <= _LONGEST else f"… {shown[-_LONGEST:]}"


def _framed(page: str) -> str:
    return (
        f"<details><summary>{_SUMMARY}</summary><iframe sandbox='allow-scripts' title='{_SUMMARY}' loading='lazy' "
        f'style="width: 100%; height: 40em; border: 1px solid #8888" srcdoc="{html.escape(page)}"></iframe></details>'
    )
