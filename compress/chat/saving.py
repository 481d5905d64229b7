"""Writes a conversation into chat.json beside the checkpoint, and the report that shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.errors import OutputError
from compress.format.manifest import MANIFEST
from compress.json_files import write_text
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
    write_text(folder / chats.FILE, text + "\n")


def write_report(folder: Path) -> Path:
    """Writes the report of the run in `folder`, as `compress report FOLDER` does, and returns its path."""
    from compress.report.page import content, page, sources

    path = folder / REPORT
    write_text(path, page.render(content.build(sources.read([folder]))))
    return path
