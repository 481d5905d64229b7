"""Collects the verdict of the gate as cells of text, and draws them on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from compress.evaluation.gate.result import FamilyVerdict, GateReport
from compress.report import formatting
from compress.report.formatting import NOTHING, percent

if TYPE_CHECKING:
    from rich.console import RenderableType

SIGNS: Mapping[str, str] = {
    "pass": "✓",
    "fail": "✗",
    "inconclusive": "?",
    "reported": "·",
    "cannot tell": "–",
    "unusable": "!",
}
COLOURS = {
    "pass": "green",
    "fail": "red",
    "inconclusive": "yellow",
    "reported": "dim",
    "cannot tell": "dim",
    "unusable": "red",
}


def title(report: GateReport) -> str:
    """Returns one line: the verdict, the candidate, the dense model, the suite."""
    parts = (report.candidate, report.dense)
    candidate, dense = (str(part.get("model", {}).get("name", "the model")) for part in parts)
    suite = f" on {report.suite['name']}" if report.suite else ""
    return printable(f"{report.verdict.upper()}: {candidate} against {dense}{suite}")


def header(report: GateReport) -> tuple[str, ...]:
    """Returns the names of the columns."""
    level = f"{100 * report.confidence:g} %"
    return ("", "family", "items", "dense", "candidate", f"difference [{level} bounds]", "margin", "lost/gained")


def rows(report: GateReport) -> list[tuple[str, ...]]:
    """Returns one row per family, in points, and one for the divergence."""
    cells = [_row(family) for family in report.families.values()]
    if (kl := report.divergence) is not None:
        limit = NOTHING if kl.maximum is None else f"{kl.maximum:g}"
        shown = f"{kl.mean:.4f} [{kl.low:.4f}, {kl.high:.4f}]"
        cells.append((SIGNS[kl.verdict], "KL to dense", "", "", "", shown, limit, ""))
    return cells


def _row(family: FamilyVerdict) -> tuple[str, ...]:
    return (
        SIGNS[family.verdict],
        label(family.name),
        f"{family.n:,}",
        percent(family.dense),
        percent(family.candidate),
        formatting.difference(family.difference, family.low, family.high),
        NOTHING if family.margin is None else f"{100 * family.margin:g}",
        f"{family.lost}/{family.gained}",
    )


def reasons(report: GateReport) -> list[tuple[str, str]]:
    """Returns the sign and the text of every reason: the sign of its own family, not that of the whole verdict."""
    verdicts: dict[str, str] = {name: family.verdict for name, family in report.families.items()}
    if report.divergence is not None:
        verdicts["divergence"] = report.divergence.verdict
    signed = ((verdicts.get(reason.partition(": ")[0], report.verdict), reason) for reason in report.reasons)
    return [(SIGNS[verdict], reason) for verdict, reason in signed]


def basis(report: GateReport) -> list[str]:
    """Returns the lines that say which families the verdict rests on, and which could not tell."""
    if not report.families and report.divergence is None:
        return []
    lines = [f"verdict carried by: {', '.join(map(label, report.carried_by))}"]
    unsure = [family for family in report.families.values() if family.verdict == "cannot tell"]
    return lines + [f"{label(family.name)} cannot tell: {family.reason}" for family in unsure]


def details(report: GateReport) -> list[str]:
    """Returns the figures that are reported and not judged, a line per family."""
    lines = []
    for family in report.families.values():
        parts = [f"flips {percent(family.flips / family.n)}"]
        parts.append(f"answers changed {percent(family.answers_changed / family.n)}")
        if family.mcnemar_p is not None:
            parts.append(f"McNemar mid-p {family.mcnemar_p:.2g}")
        if family.recovery is not None:
            parts.append(f"recovery {percent(family.recovery)}")
        if family.empty is not None:
            parts.append(f"empty {percent(family.empty[0])} → {percent(family.empty[1])}")
        if family.clusters is not None:
            parts.append(f"{family.clusters:,} clusters")
        lines.append(f"{label(family.name)}: {', '.join(parts)}")
    if (kl := report.divergence) is not None:
        lines.append(f"divergence: p99 {kl.p99:.3f} nats, same top-1 token {percent(kl.same_top1)}")
    return lines


def label(name: str) -> str:
    """Returns the name of a family as people write it, safe to print."""
    return printable(formatting.label(name))


def printable(text: str) -> str:
    """Returns the text with blanks for control characters, since names come from files and could steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


def render(report: GateReport) -> RenderableType:
    """Returns the report for rich to print; it fits 100 columns."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = ["", Text(title(report), style=f"bold {COLOURS[report.verdict]}")]
    if cells := rows(report):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for index, name in enumerate(header(report)):
            table.add_column(name, justify="left" if index < 2 else "right", no_wrap=True)
        verdicts = [family.verdict for family in report.families.values()]
        verdicts += [report.divergence.verdict] if report.divergence is not None else []
        for row, verdict in zip(cells, verdicts, strict=True):
            table.add_row(Text(row[0], style=COLOURS[verdict]), *map(Text, row[1:]))
        parts += [table, ""]
    parts += [Text(printable(f"{sign} {reason}")) for sign, reason in reasons(report)]
    parts += [Text(printable(line)) for line in basis(report)]
    notes = (*details(report), *(f"note: {text}" for text in report.remarks))
    parts += [Text(printable(line), style="dim") for line in notes]
    return Group(*parts)
