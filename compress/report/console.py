"""Makes the rich consoles for all printed output."""

from __future__ import annotations

import shutil

from rich.console import Console

PIPE_WIDTH = 120
"""Columns when the output is not a terminal: wide enough that tables in logs and files are not cut."""


def console(*, stderr: bool = False) -> Console:
    """Returns a console on stdout or stderr; NO_COLOR, COLUMNS and the width of the terminal are respected."""
    plain = Console(stderr=stderr, highlight=False)
    if not plain.is_terminal and not plain.is_jupyter:
        plain.width = shutil.get_terminal_size((PIPE_WIDTH, 25)).columns
    return plain
