"""The rich consoles that everything is printed with."""

from __future__ import annotations

import shutil

from rich.console import Console

PIPE_WIDTH = 120
"""Columns when the output is no terminal, so that tables in logs and files are not cut at 80."""


def console(*, stderr: bool = False) -> Console:
    """Returns a console on stdout or stderr; NO_COLOR, COLUMNS and the width of the terminal are respected."""
    plain = Console(stderr=stderr, highlight=False)
    if not plain.is_terminal and not plain.is_jupyter:
        plain.width = shutil.get_terminal_size((PIPE_WIDTH, 25)).columns
    return plain
