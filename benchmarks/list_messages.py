"""Lists every message that a user can meet, from the source: errors, printed lines, notes, warnings.

    python benchmarks/list_messages.py [--only errors] [compress/cli …]

One line for each: file:line, where it goes, and its text with {…} for what is filled in. It is read after a change with
the eyes of somebody who has not written it: what was given, what is allowed, what to do.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_ERRORS = ("Error", "UsageError", "ClickException", "unknown", "translated", "Rejected")
"""Endings of the names of calls whose texts become an error."""
_PRINTED = ("echo", "note", "warn", "print", "add_note", "fail")
_TEXTS = ("given", "allowed", "do", "help", "message", "reason")
"""Arguments by name that hold text."""


@dataclass(frozen=True, slots=True)
class Message:
    """One text, as it stands in the source."""

    path: Path
    line: int
    kind: str
    """The class of the error, or the function that prints."""
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind}: {self.text}"


def messages(path: Path) -> Iterator[Message]:
    """Yields the messages of a source file in their order."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    place = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (kind := _kind(node)) is not None and (text := _said(node)):
            yield Message(place, node.lineno, kind, text)


def _kind(call: ast.Call) -> str | None:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name if name.endswith(_ERRORS) or name in (*_PRINTED, "option", "argument") else None


def _said(call: ast.Call) -> str:
    """Returns the texts of a call; `given`, `allowed` and `do` are parted by bars."""
    values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg in _TEXTS)]
    return " | ".join(text for value in values if (text := _text(value)) and " " in text)


def _text(node: ast.expr) -> str:
    """Returns a text with {…} in place of what is filled in; every branch of a condition; empty for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"
            for part in node.values
            if isinstance(part, ast.FormattedValue | ast.Constant)
        )
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.IfExp):
        return " / ".join(text for branch in (node.body, node.orelse) if (text := _text(branch)))
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT / "compress"])
    parser.add_argument("--only", choices=("errors", "printed", "options"))
    given = parser.parse_args()
    files = sorted(file for path in given.paths for file in (path.rglob("*.py") if path.is_dir() else [path]))
    for file in files:
        for message in sorted(messages(file.resolve()), key=lambda each: each.line):
            group = "errors" if message.kind.endswith(_ERRORS) else "printed" if message.kind in _PRINTED else "options"
            if given.only in (None, group):
                print(message)


if __name__ == "__main__":
    main()
