"""gate.md: the verdict for a job summary or a comment on a change."""

from __future__ import annotations

from collections.abc import Sequence

from compress.evaluation.gate.result import GateReport
from compress.report.gate import table

_MEANING = {
    "pass": "no family lost more than its margin, and that is shown, not assumed",
    "fail": "a loss beyond the margin is shown, or the candidate is unusable",
    "inconclusive": "nothing beyond the margins is shown, and neither is its absence",
    "unusable": "nothing can be said with these inputs",
}


def render(report: GateReport) -> str:
    """Returns the report as a markdown document, without a path or time in it."""
    lines = [f"## {table.SIGNS[report.verdict]} {_text(table.title(report))}", ""]
    lines += [f"{report.verdict}: {_MEANING[report.verdict]}.", ""]
    lines += [f"- {_text(reason)}" for reason in report.reasons] + [""] * bool(report.reasons)
    if found := table.rows(report):
        header = table.header(report)
        lines += [_line(header), _line([":-:", ":--", *["--:"] * (len(header) - 2)]), *map(_line, found), ""]
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
    """Names come from files: none may begin a table cell or a tag."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
