"""Ends a run in the middle, as a kill would: after some steps of a stage, or before the record of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from compress.progress import Silent, Task
from compress.stages.workspace import Workspace


class KilledError(Exception):
    """The process ends here."""


@contextmanager
def killed_before_record(block: int) -> Iterator[None]:
    """A run inside must end right before the record of this block is written."""
    finish_block = Workspace.finish_block

    def stop(self: Workspace, index: int, record: dict[str, Any]) -> None:
        if index == block:
            raise KilledError
        finish_block(self, index, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workspace, "finish_block", stop)
        with pytest.raises(KilledError):
            yield


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
