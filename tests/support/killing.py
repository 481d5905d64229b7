"""Progress that ends a run in the middle, as a kill would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from compress.progress import Silent, Task


class KilledError(Exception):
    """The process ends here."""


class KillsAfter(Silent):
    """Ends the run when more than some steps of the stage called `title` were reported."""

    def __init__(self, steps: int, title: str = "Training"):
        self.left, self.title, self.notes = steps, title, list[str]()

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Task]:
        yield _Counting(self) if title == self.title else _Counting(None)


class _Counting:
    def __init__(self, watched: KillsAfter | None):
        self._watched = watched

    def advance(self, steps: int = 1, note: str = "") -> None:
        if self._watched is not None:
            self._watched.left -= steps
            self._watched.notes.append(note)
            if self._watched.left < 0:
                raise KilledError
