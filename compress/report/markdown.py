"""The table *dense vs compressed* as markdown: `report.md` of a result."""

from __future__ import annotations

from collections.abc import Sequence

from compress.report.comparison import HEADER, Comparison


def render(comparison: Comparison) -> str:
    """Returns the comparison as a markdown document."""
    rows = [row.cells for section in comparison.sections for row in section]
    lines = [f"# {comparison.title}", "", _line(HEADER), _line([":--", *["--:"] * (len(HEADER) - 1)])]
    lines += [*map(_line, rows), ""]
    for remark in comparison.remarks:
        lines += [remark, ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
