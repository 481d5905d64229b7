"""Draws the table of a finished run as an SVG that loads nothing from elsewhere, such as the picture in the README.

python -m compress.report.table.picture runs/atlas-spqr-3bit docs/result.svg
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console

from compress.evaluation.result import EvalResult
from compress.format.manifest import read_manifest
from compress.report.table import overview, terminal

WIDTH = 84
_INDENTED = re.compile(r'x="([\d.]+)"( y="[\d.]+") textLength="([\d.]+)"([^>]*)>((?:&#160;)+)([^<]*)<')
_COLUMN = 12.2
"""Width of one character in the SVG units of rich."""
_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""The web fonts that rich refers to; without them the viewer's monospace font is used."""


def svg(table: overview.Overview, title: str) -> str:
    """Returns the SVG of a table, as a terminal with `title` in its bar would show it."""
    recorder = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    recorder.print(terminal.render(table))
    picture = _FONT.sub("", recorder.export_svg(title=title, unique_id="compress"))
    # some viewers drop the spaces at the start of a text, and with them the alignment
    picture = _INDENTED.sub(_without_indent, picture)
    return picture.replace("Fira Code, monospace", "ui-monospace, monospace")


def _without_indent(match: re.Match[str]) -> str:
    x, y, length, rest, indent, text = match.groups()
    shift = _COLUMN * len(indent) / len("&#160;")
    return f'x="{float(x) + shift:.1f}"{y} textLength="{float(length) - shift:.1f}"{rest}>{text}<'


def main(folder: str, target: str) -> None:
    """Writes the picture of the run in `folder` to `target`."""
    path = Path(folder) / "eval.json"
    evaluation = EvalResult.read(path) if path.is_file() else None
    table = overview.of_checkpoint(Path(folder), read_manifest(folder), evaluation)
    Path(target).write_text(svg(table, "compress run --method spqr"), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
