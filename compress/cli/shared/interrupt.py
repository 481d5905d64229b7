"""Tells whoever interrupts an evaluation that its finished replies are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def replies_are_kept(kept: bool) -> Iterator[None]:
    """Adds to an interruption inside that the same command goes on from the finished replies, where they are kept."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if kept:
            stop.add_note(". Run the same command again: it goes on from the replies that are finished.")
        raise
