"""The gate's verdict as cells of text, drawn by its terminal and markdown forms; and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from compress.evaluation.gate.result import FamilyVerdict, GateReport
from compress.report.formatting import percent, signed

if TYPE_CHECKING:
    from rich.console import RenderableType

SIGNS: Mapping[str, str] = {"pass": "✓", "fail": "✗", "inconclusive": "?", "reported": "·", "unusable": "!"}
COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "reported": "dim", "unusable": "red"}
NOTHING = "–"


def title(report: GateReport) -> str:
    """Returns one line: the verdict, on whom, against whom, on what."""
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
    made = [_row(family) for family in report.families.values()]
    if (kl := report.divergence) is not None:
        limit = NOTHING if kl.maximum is None else f"{kl.maximum:g}"
        shown = f"{kl.mean:.4f} [{kl.low:.4f}, {kl.high:.4f}]"
        made.append((SIGNS[kl.verdict], "KL to dense", "", "", "", shown, limit, ""))
    return made


def _row(family: FamilyVerdict) -> tuple[str, ...]:
    bounds = f"[{signed(100 * family.low)}, {signed(100 * family.high)}]"
    return (
        SIGNS[family.verdict],
        label(family.name),
        f"{family.n:,}",
        percent(family.dense),
        percent(family.candidate),
        f"{signed(100 * family.difference)} {bounds}",
        NOTHING if family.margin is None else f"{100 * family.margin:g}",
        f"{family.lost}/{family.gained}",
    )


def details(report: GateReport) -> list[str]:
    """Returns what is reported and not judged, a line per family."""
    made = []
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
        made.append(f"{label(family.name)}: {', '.join(parts)}")
    if (kl := report.divergence) is not None:
        made.append(f"divergence: p99 {kl.p99:.3f} nats, same top-1 token {percent(kl.same_top1)}")
    return made


def label(name: str) -> str:
    """Returns a family's name as people write it."""
    return printable(name.replace("_", " "))


def printable(text: str) -> str:
    """Returns the text with blanks for what would steer a terminal: names and words come from files."""
    return "".join(c if c.isprintable() else " " for c in text)


def render(report: GateReport) -> RenderableType:
    """Returns the report as something that rich prints; 100 columns are enough."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = ["", Text(title(report), style=f"bold {COLOURS[report.verdict]}")]
    if found := rows(report):
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
        for index, name in enumerate(header(report)):
            table.add_column(name, justify="left" if index < 2 else "right", no_wrap=True)
        verdicts = [family.verdict for family in report.families.values()]
        verdicts += [report.divergence.verdict] if report.divergence is not None else []
        for row, verdict in zip(found, verdicts, strict=True):
            table.add_row(Text(row[0], style=COLOURS[verdict]), *map(Text, row[1:]))
        parts += [table, ""]
    parts += [Text(printable(f"{SIGNS[report.verdict]} {reason}")) for reason in report.reasons]
    notes = (*details(report), *(f"note: {text}" for text in report.remarks))
    parts += [Text(printable(line), style="dim") for line in notes]
    return Group(*parts)
