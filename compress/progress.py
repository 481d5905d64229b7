"""Progress: how long work tells how far it is. Standard library only; the rich form is in `report.progress`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running bar."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Moves on by `steps`; `note` is what is being worked on now."""


class Progress(Protocol):
    """What the pipeline and the evaluation report to."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Task]:
        """Returns a context manager whose value takes `advance` calls up to `total`."""

    def note(self, text: str) -> None:
        """Says one line that stays."""


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


class Silent:
    """Progress that nobody watches."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Task]:
        yield _SilentTask()

    def note(self, text: str) -> None:
        pass
