"""Interface for progress reports. Standard library only; what draws them is in `report.progress_bars`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running bar."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Moves the bar by `steps`; `note` names the current item, such as a layer."""


class Progress(Protocol):
    """Receives the progress of the pipeline and of evaluations."""

    def stage(self, title: str, total: int) -> AbstractContextManager[Task]:
        """Returns a context manager that yields the bar of a stage of `total` steps."""

    def note(self, text: str) -> None:
        """Prints a line that stays."""


class _SilentTask:
    def advance(self, steps: int = 1, note: str = "") -> None:
        pass


class Silent:
    """Discards all progress reports."""

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Task]:
        yield _SilentTask()

    def note(self, text: str) -> None:
        pass
