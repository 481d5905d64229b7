"""Names of files for rows and cases of a benchmark."""

from __future__ import annotations


def slug(text: str) -> str:
    """Returns a file name: the letters and digits of the text in lower case, all else as single hyphens."""
    return "-".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
