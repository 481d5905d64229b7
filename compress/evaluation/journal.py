"""Keeps the replies of an evaluation while it runs, in a file from which an interrupted evaluation goes on.

The first line holds the hash of all that the replies depend on; a file with another hash is started anew. Every further
line is a JSON object of replies by the hash of what was asked, written whole, so that a killed process leaves at most
one torn line, which is cut off. Floats are written so that they are read back exactly.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """Replies by key; with a file they survive the process."""

    def __init__(self, path: Path | None = None, about: Mapping[str, Any] | None = None) -> None:
        """Opens the journal of `path`, or one in memory; `about` is all that the replies depend on."""
        self._path = path
        self.replies: dict[str, Any] = {}
        if path is None:
            return
        head = json.dumps({"about": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()})
        good = self._read(head)
        path.parent.mkdir(parents=True, exist_ok=True)
        if good == 0:
            path.write_text(head + "\n", encoding="utf-8")
        else:
            os.truncate(path, good)

    def add(self, replies: Mapping[str, Any]) -> None:
        """Adds the replies of one batch."""
        self.replies |= replies
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(replies) + "\n")

    def remove(self) -> None:
        """Deletes the file, when the evaluation is stored as a whole."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, head: str) -> int:
        """Reads the replies of the file; returns the number of its bytes that are whole lines, 0 to start anew."""
        assert self._path is not None
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return 0
        good = 0
        for number, line in enumerate(content.splitlines(keepends=True)):
            if not line.endswith(b"\n"):
                break
            if number == 0:
                if line.decode("utf-8", "replace") != head + "\n":
                    return 0
            else:
                try:
                    replies = json.loads(line)
                except ValueError:
                    break
                if not isinstance(replies, dict):
                    break
                self.replies |= replies
            good += len(line)
        return good


def key(kind: str, *asked: Any) -> str:
    """Returns the key of one question: a hash of its kind and of all that was asked."""
    return hashlib.sha256(json.dumps([kind, *asked]).encode()).hexdigest()[:24]
