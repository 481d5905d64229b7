"""Finds the Python files that a model's configurations point to with `auto_map`, without running any of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.json_files import parse

_CUSTOM_GENERATE = "custom_generate/generate.py"
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def list_remote_code(folder: Path) -> list[str]:
    """Returns the files of remote code, relative to `folder`: those named by `auto_map` and all that they import.

    Code in another repository (`owner/name--module.Class`) stays there. A file that is no valid Python is listed alone.
    """
    waiting = [*_entry_points(folder)]
    if (folder / _CUSTOM_GENERATE).is_file():
        waiting.append(_CUSTOM_GENERATE)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or not (folder / name).is_file():
            continue
        seen.add(name)
        waiting += _relative_imports(folder, name)
    return sorted(seen)


def _entry_points(folder: Path) -> Iterator[str]:
    """Yields the files that the `auto_map` of any configuration in the folder names."""
    for path in sorted(folder.glob("*config.json")):
        try:
            content = parse(path.read_bytes())
        except (OSError, ValueError):
            continue  # the code that needs this configuration reports the fault
        auto_map = content.get("auto_map") if isinstance(content, dict) else None
        for reference in _strings(auto_map):
            module = reference.rpartition(".")[0]
            if "--" not in reference and _MODULE.fullmatch(module):
                yield f"{module.replace('.', '/')}.py"


def _strings(value: Any) -> Iterator[str]:
    """Yields the references in an `auto_map`: a table of strings, or of lists of strings and null."""
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict | list):
            yield from _strings(entry)


def _relative_imports(folder: Path, name: str) -> Iterator[str]:
    """Yields the files that `from .module import name` and `from . import module` may mean, whether there or not."""
    try:
        tree = ast.parse((folder / name).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        package = Path(name).parent.parts
        if node.level - 1 > len(package):
            continue  # outside of the model's folder
        base = "/".join(
            (*package[: len(package) - (node.level - 1)], *(node.module or "").split(".") * bool(node.module))
        )
        for place in (base, *(f"{base}/{alias.name}".lstrip("/") for alias in node.names)):
            if place:
                yield f"{place}.py"
                yield f"{place}/__init__.py"
