"""Writes the table *dense vs compressed* as markdown, the content of `report.md`."""

from __future__ import annotations

from collections.abc import Sequence

from compress.report.table.overview import Overview


def render(overview: Overview) -> str:
    """Returns the overview as a markdown document."""
    rows = [row for section in overview.sections for row in section]
    lines = [f"# {overview.title}", "", _line(overview.header), _line([":--", *["--:"] * (len(overview.header) - 1)])]
    lines += [*map(_line, rows), ""]
    for remark in overview.remarks:
        lines += [remark, ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
