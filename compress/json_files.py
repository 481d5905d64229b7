"""Reads JSON that may be damaged, and writes JSON and other text whole or not at all. Standard library only.

A file that is no JSON object is an error with the file's name, never a traceback.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.errors import CompressError, FormatError, OutputError


def parse(text: str | bytes, **options: Any) -> Any:
    """Returns the value of a JSON text; `options` go to `json.loads`.

    Raises:
        ValueError: it is not JSON, or its lists and objects are nested too deeply for Python's parser.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deeply") from error


def read_object(path: Path, *, error: type[CompressError] = FormatError, do: str | None = None) -> dict[str, Any]:
    """Returns the object in a JSON file.

    Args:
        path: the file, UTF-8.
        error: class of the error that is raised.
        do: the cure for a damaged file.

    Raises:
        error: the file is missing or cannot be read, is not JSON, or holds something other than an object.
    """
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise error(f"{path} is missing", do=do) from cause
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror or cause}", do=do) from cause
    except ValueError as cause:
        raise error(f"{path} cannot be read: {cause}", do=do) from cause
    if not isinstance(value, dict):
        raise error(f"{path} holds {_KINDS.get(type(value), 'no value')}", allowed="a JSON object", do=do)
    if (lone := _lone_surrogate(value)) is not None:
        raise error(f"{path} holds {lone!r}, which is no text in any encoding", do=do)
    return value


def write_text(path: str | Path, text: str, *, do: str | None = None) -> None:
    """Writes `text` to a file, in UTF-8; makes its folder if need be. A reader sees the file whole or not at all.

    Args:
        path: the file.
        text: its content.
        do: cure, for the error.

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
        raise OutputError(f"{path} cannot be written: {error.strerror or error}", do=do) from error


_KINDS = {
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _lone_surrogate(value: Any) -> str | None:
    """Returns a string of `value` that cannot be encoded: half of a surrogate pair, which JSON can escape."""
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            waiting += [*entry.keys(), *entry.values()]
        elif isinstance(entry, list):
            waiting += entry
        elif isinstance(entry, str) and not entry.isascii():
            try:
                entry.encode()
            except UnicodeEncodeError:
                return entry
    return None
