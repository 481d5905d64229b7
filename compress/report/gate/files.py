"""Writes gate.md, gate.json and junit.xml into one folder."""

from __future__ import annotations

from pathlib import Path

from compress.errors import OutputError
from compress.evaluation.gate.result import GateReport
from compress.report.gate import junit, markdown

NAMES = ("gate.md", "gate.json", "junit.xml")


def write(report: GateReport, folder: str | Path) -> Path:
    """Writes the three files and returns the folder, created if needed; OutputError when it cannot be written."""
    folder = Path(folder)
    xml = '<?xml version="1.0" encoding="UTF-8"?>\n' + junit.render(report)
    texts = (markdown.render(report), report.to_json(), xml)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in zip(NAMES, texts, strict=True):
            (folder / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror}", do="Give another --output") from error
    return folder
