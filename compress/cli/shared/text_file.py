"""Writes the files that commands are asked for with `--output`, `--json FILE` and the like."""

from __future__ import annotations

from pathlib import Path

from compress.errors import OutputError


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to a file, in UTF-8; makes its folder if need be. A reader sees the file whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    target = Path(path)
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file():  # a device, such as /dev/stdout
            target.write_text(text, encoding="utf-8")
            return
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}", do="Give another file") from error
