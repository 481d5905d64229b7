"""Finds the folder in which this package keeps files between runs, and reads and writes texts there. Standard library.

A kept file is never needed: one that is missing, damaged or of another key is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path


def folder(kind: str) -> Path:
    """Returns the folder for one kind of files: in `$COMPRESS_CACHE`, else in `compress` in the user's cache folder."""
    if chosen := os.environ.get("COMPRESS_CACHE"):
        return Path(chosen) / kind
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "compress" / kind


def write_whole(path: Path, text: str) -> None:
    """Writes a file that a reader sees whole or not at all, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def read_texts(kind: str, key: str) -> list[str] | None:
    """Returns the texts kept under `key`; None when there are none, or the file is damaged."""
    try:
        head, _, body = _path(kind, key).read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    return json.loads(body) if head == _head(key, body) else None


def keep_texts(kind: str, key: str, texts: Sequence[str]) -> None:
    """Keeps texts under `key`. A folder that cannot be written (a read-only home) keeps nothing."""
    body = json.dumps(texts)
    try:
        write_whole(_path(kind, key), f"{_head(key, body)}\n{body}")
    except OSError:
        return


def _path(kind: str, key: str) -> Path:
    return folder(kind) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.txt"


def _head(key: str, body: str) -> str:
    """Says what the rest of the file is, so that no other file passes for it."""
    return hashlib.sha256(f"{key}\n{body}".encode()).hexdigest()
