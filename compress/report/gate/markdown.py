"""Writes gate.md: the verdict for a job summary or a comment on a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from compress.evaluation.gate.result import GateReport
from compress.report.gate import table

_MEANING = {
    "pass": "it is shown that no family lost more than its margin",
    "fail": "a loss beyond the margin is shown, or the candidate is unusable",
    "inconclusive": "neither a loss beyond the margins nor its absence is shown",
    "unusable": "these inputs allow no verdict",
}


def render(report: GateReport) -> str:
    """Returns the report as a markdown document; it contains no path and no time."""
    lines = [f"## {table.SIGNS[report.verdict]} {_text(table.title(report))}", ""]
    lines += [f"{report.verdict}: {_MEANING[report.verdict]}.", ""]
    lines += [f"- {_text(reason)}" for reason in report.reasons] + [""] * bool(report.reasons)
    lines += [f"- {_text(line)}" for line in table.basis(report)] + [""] * bool(table.basis(report))
    if rows := table.rows(report):
        header = table.header(report)
        lines += [_line(header), _line([":-:", ":--", *["--:"] * (len(header) - 2)]), *map(_line, rows), ""]
        lines += [
            f"Differences in points over the same items, each bound one-sided at {100 * report.confidence:g} %.",
            "",
        ]
        lines += ["<details><summary>Reported, not judged</summary>", ""]
        lines += [f"- {_text(line)}" for line in table.details(report)] + ["", "</details>", ""]
    lines += [f"> {_text(remark)}" for remark in report.remarks] + [""] * bool(report.remarks)
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_text(cell) for cell in cells) + " |"


def _text(text: str) -> str:
    """Returns the text with cell borders and tags escaped, since names come from files."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
