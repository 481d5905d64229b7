"""Writes the report as markdown: the same content as the page, for a pull request or a job summary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compress.report import coverage as covered
from compress.report.charts.heat import heats
from compress.report.formatting import NOTHING, label, percent, perplexity, size, stage
from compress.report.page import comparison, phrases, speed

Content = Mapping[str, Any]
_HIDDEN = {"\\": "\\\\", "|": "\\|", "<": "&lt;", "*": "\\*", "_": "\\_", "`": "\\`", "[": "\\[", "#": "\\#"}


def render(content: Content) -> str:
    """Returns the report of a content (`content.build`) as a markdown document."""
    lines = [f"# {_plain(phrases.title(content))}", ""]
    if content["notes"]:
        lines += [content["notes"].strip(), ""]  # markdown already, and the reader's own
    if compared := comparison.comparison(content["runs"]):
        lines += _compared(compared)
    for index, run in enumerate(content["runs"]):
        lines += _run(run, comparison.key(index) if compared else None)
    for frontier in content["frontiers"]:
        lines += _frontier(comparison.of_frontier(frontier))
    return "\n".join(lines).rstrip() + "\n"


def _run(run: Content, key: str | None) -> list[str]:
    deeper = "##" if key is None else "###"
    lines = [] if key is None else [f"## {key}: {_plain(run['name'])}", ""]
    verdict = phrases.gate(run)
    meta = [part for part in (phrases.when(run), phrases.where(run), verdict[0] if verdict else None) if part]
    lines += [_plain(" · ".join(meta)), ""] if meta else []
    if methods := phrases.methods(run):
        lines += [f"{_plain(run['model'])} → {_plain(methods)}", ""]
    lines += [phrases.headline(run), ""]
    lines += [run["notes"].strip(), ""] if run["notes"] else []
    lines += [f"> **Warning:** {_plain(warning)}\n" for warning in run["warnings"]]
    lines += [f"- {name}: **{figure}** ({note})" for name, figure, note in phrases.cards(run)]
    if run["made"] and not run["speed"]:
        lines += ["", speed.NOT_MEASURED]
    if run["families"] and not run["gate"]:
        lines += ["", phrases.NOT_GATED]
    if run["families"] is not None:
        lines += ["", f"{deeper} Knowledge", "", *_families(run)]
    if gate := run["gate"]:
        lines += [
            "",
            f"**Gate: {_plain(str(gate['verdict']))}**",
            *(f"- {_plain(reason)}" for reason in gate["reasons"]),
        ]
    if run["samples"]:
        lines += ["", f"{deeper} Sample answers", "", *_items(run["samples"])]
    if run["lost"] and run["lost"]["families"]:
        missing = run["lost"]["missing"]
        note = [f"{_plain(missing)}.", ""] if missing else []
        lines += ["", f"{deeper} Lost items", "", *note, *_lost(run["lost"]["families"])]
    if run["speed"]:
        table = _table(speed.HEAD, speed.rows(run["speed"]))
        lines += ["", f"{deeper} Speed", "", f"{_plain(speed.where(run['speed']))}.", "", *table]
    for chat in run["chats"]:
        lines += ["", f"{deeper} Chat", "", _plain(phrases.chat(chat)), "", *_chat(chat)]
    if run["layers"]:
        lines += ["", f"{deeper} Layers", ""]
        for heat in heats(run["layers"]):
            lines += [f"{heat.title} ({heat.note}), blocks across:", ""]
            rows = [(kind, *(cell.shown for cell in cells)) for kind, cells in heat.rows]
            lines += [*_table(("linear", *heat.columns), rows), ""]
    if made := run["made"]:
        lines += ["", f"{deeper} How it was made", "", *_made(run, made)]
    return [*lines, ""]


def _families(run: Content) -> list[str]:
    rows = []
    for family in run["families"]:
        paired = family["paired"]
        rows.append(
            (
                label(family["name"]),
                NOTHING if family["dense"] is None else percent(family["dense"]),
                percent(family["score"]),
                NOTHING if paired is None else phrases.difference(paired),
                NOTHING if paired is None else f"{paired['lost']}/{paired['gained']}",
                str(family["items"]),
            )
        )
    confidence = run["asked"]["confidence"]
    head = "difference" if confidence is None else f"difference [{100 * confidence:g} %]"
    return _table(("family", "dense", "compressed", head, "lost/gained", "items"), rows)


def _lost(families: Iterable[Content]) -> list[str]:
    lines = []
    for family in families:
        lines += [f"**{label(family['family'])}**: {family['lost']} of {family['of']} lost", ""]
        lines += [*_items(family["items"]), ""]
    return lines


def _chat(chat: Content) -> list[str]:
    beside = ["against"] if "against" in chat else []
    rows = [
        (turn["prompt"], *(turn.get(key, {"text": NOTHING})["text"] for key in (*beside, "answer")))
        for turn in chat["turns"]
    ]
    return _table(("message", *(chat[key] for key in (*beside, "model"))), rows)


def _items(items: Iterable[Content]) -> list[str]:
    """Returns a table of items with both answers."""
    rows = [
        (
            item["question"] or item["id"],
            item["dense"] or "(empty)",
            item["compressed"] or "(empty)",
            item["expected"] or "",
        )
        for item in items
    ]
    return _table(("question", "dense", "compressed", "expected"), rows)


def _made(run: Content, made: Content) -> list[str]:
    lines = []
    if again := run["rerun"]:
        lines = ["Run it again:", ""]
        lines += [*_fenced("toml", again["recipe"].rstrip()), ""] if again["recipe"] else []
        lines += [*_fenced("bash", again["command"]), ""]
    lines += [f"{n}. {_plain(stage(did['method'], did['options']))}" for n, did in enumerate(run["did"], 1)]
    if made["calibration"]:
        lines += ["", f"Calibration: {_plain(phrases.calibration(made['calibration']))}."]
    if shares := covered.compressed(made["coverage"] or {}, total=False):
        lines += ["", f"Coverage: {shares}."]
    versions = {"compress": made["compress_version"] or "not known", **made["libraries"]}
    return [
        *lines,
        "",
        "Versions: " + ", ".join(_plain(f"{name} {version}") for name, version in versions.items()) + ".",
    ]


def _fenced(language: str, text: str) -> list[str]:
    """Returns text as a block of code, in a fence that is longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [f"{fence}{language}", *text.splitlines(), fence]


def _compared(compared: Content) -> list[str]:
    head = (
        "run",
        "size on disk",
        "bits/weight, linears",
        "KL to dense, mean",
        "perplexity",
        *(["tokens/s"] if compared["fast"] else []),
        *map(label, compared["families"]),
    )
    rows = [
        (
            f"{row['key']} {row['methods'] or row['name']}" + (f" ({row['about']})" if row["about"] else ""),
            NOTHING if row["size_bytes"] is None else size(row["size_bytes"]),
            NOTHING if row["bits"] is None else f"{row['bits']:.2f}",
            NOTHING if row["kl"] is None else f"{row['kl']['mean']:.4f}",
            NOTHING if row["perplexity"] is None else perplexity(row["perplexity"]),
            *([_speed(row)] if compared["fast"] else []),
            *(
                NOTHING if family is None else family["paired"] or percent(family["score"])
                for family in row["families"]
            ),
        )
        for row in compared["rows"]
    ]
    return [*_table(head, rows), ""]


def _speed(row: Content) -> str:
    if row["decode"] is None:
        return NOTHING
    times = "" if row["times_faster"] is None else f" ({row['times_faster']:.2g}× dense)"
    return f"{speed.rate(row['decode'])}{times}"


def _frontier(frontier: Content) -> list[str]:
    lines = [
        f"## What each bit buys: {_plain(frontier['title'])}",
        "",
        *_table(frontier["header"], frontier["rows"]),
        "",
    ]
    return [*lines, *(f"{_plain(remark)}  " for remark in frontier["remarks"]), ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a table, with markdown and HTML in its cells escaped."""
    lines = [_line(head), _line_raw([":--", *["--:"] * (len(head) - 1)])]
    return [*lines, *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return _line_raw([_plain(cell).replace("\n", "<br>") for cell in cells])


def _line_raw(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """Returns the text with markdown and HTML escaped."""
    return "".join(_HIDDEN.get(character, character) for character in text)
