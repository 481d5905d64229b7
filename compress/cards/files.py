"""Writes README.md into a folder, and tells a card that was written here from one that a person edited.

The last line of a card that this package writes is a comment with the sha256 of what stands above it. While they agree,
the card is written anew when there is news. Whatever else is in README.md was written by a person, and is kept.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from compress.errors import OutputError
from compress.json_files import write_text

CARD = "README.md"
_SIGNATURE = re.compile(r"<!-- Written by compress; once edited it is kept\. sha256: ([0-9a-f]{64}) -->\n?\Z")


def sign(text: str) -> str:
    """Returns the card with the comment by which it is known again."""
    body = text.rstrip("\n") + "\n\n"
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"{body}<!-- Written by compress; once edited it is kept. sha256: {digest} -->\n"


def is_own(text: str) -> bool:
    """Returns whether a card is as it was written here."""
    found = _SIGNATURE.search(text)
    return found is not None and hashlib.sha256(text[: found.start()].encode()).hexdigest() == found[1]


def unsigned(text: str) -> str:
    """Returns a card without the comment."""
    return _SIGNATURE.sub("", text).rstrip("\n") + "\n"


def read(folder: Path) -> str | None:
    """Returns the README.md of a folder, None where there is none.

    Raises:
        OutputError: it is no text in UTF-8.
    """
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise OutputError(f"{path} is no text in UTF-8", do="Save it as UTF-8, or delete it") from error


def write(folder: Path, text: str) -> bool:
    """Writes a card; returns False where there is one that a person edited, which stays.

    Raises:
        OutputError: it cannot be written.
    """
    before = read(folder)
    if before is not None and not is_own(before):
        return False
    if (signed := sign(text)) != before:
        write_text(folder / CARD, signed)
    return True
