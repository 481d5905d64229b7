"""Writes the files that commands are asked for with `--output`, `--json FILE` and the like."""

from __future__ import annotations

from pathlib import Path

from compress.errors import OutputError


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to a file, in UTF-8; makes its folder if need be.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}", do="Give another file") from error
