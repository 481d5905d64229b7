"""Interface for progress reports. Standard library only; what draws them is in `report.progress_bars`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Protocol


class Detail(Enum):
    """How much of the progress is shown."""

    QUIET = "quiet"
    """Warnings alone."""
    NORMAL = "normal"
    VERBOSE = "verbose"
    """Every step on a line of its own."""


DETAIL: ContextVar[Detail] = ContextVar("DETAIL", default=Detail.NORMAL)
"""What `report.progress_bars.watch` shows; the command line sets it from --quiet and --verbose."""


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


@contextmanager
def without_library_bars() -> Iterator[None]:
    """Hides the progress bars of transformers and datasets, where they are imported: our callers show their own."""
    switches: list[tuple[bool, Callable[[], None], Callable[[], None]]] = []
    if (logging := sys.modules.get("transformers.utils.logging")) is not None:
        switches.append((logging.is_progress_bar_enabled(), logging.disable_progress_bar, logging.enable_progress_bar))
    if (utils := sys.modules.get("datasets.utils")) is not None:
        switches.append(
            (not utils.are_progress_bars_disabled(), utils.disable_progress_bars, utils.enable_progress_bars)
        )
    shown = [(hide, show) for on, hide, show in switches if on]
    for hide, _ in shown:
        hide()
    try:
        yield
    finally:
        for _, show in shown:
            show()
