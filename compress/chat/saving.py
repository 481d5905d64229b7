"""Writes a conversation into chat.json beside the checkpoint, and the report that shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.errors import OutputError
from compress.format.manifest import MANIFEST
from compress.report import chats

REPORT = "report.html"


def check(folder: Path) -> None:
    """Raises OutputError for a folder that has no report to save into."""
    if not (folder / MANIFEST).is_file():
        raise OutputError(
            f"{folder} is no folder of a run, so it has no report to save into",
            do="Chat with the folder of a run; another model goes beside it with --against",
        )


def save(folder: Path, chat: dict[str, Any], before: dict[str, Any] | None) -> None:
    """Adds a conversation to the folder's chat.json, in the place of `before`, what was saved of it earlier.

    Raises:
        OutputError: the folder is not that of a run, or cannot be written.
        FormatError: its chat.json is damaged.
    """
    check(folder)
    kept = chats.read(folder)
    if before in kept:
        kept[kept.index(before)] = chat
    else:
        kept.append(chat)
    text = json.dumps({"schema_version": chats.SCHEMA_VERSION, "chats": kept}, indent=1, ensure_ascii=False)
    partial = folder / f"{chats.FILE}.partial"
    try:
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(folder / chats.FILE)
    except OSError as error:
        raise OutputError(f"{folder / chats.FILE} cannot be written: {error.strerror or error}") from error


def write_report(folder: Path) -> Path:
    """Writes the report of the run in `folder`, as `compress report FOLDER` does, and returns its path."""
    from compress.report.page import content, page, sources

    path = folder / REPORT
    text = page.render(content.build(sources.read([folder])))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    return path
