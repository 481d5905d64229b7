"""Shows progress: bars on a terminal, plain lines in a log, an updating display in a notebook."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from compress.progress import DETAIL, Detail
from compress.report.console import console
from compress.report.formatting import clock


class Stage:
    """One running stage: its steps, when it started, and a note on its present step."""

    def __init__(self, title: str, total: int, draw: Callable[[Stage], None]) -> None:
        self.title, self.total, self.done, self.note = title, total, 0, ""
        self.started = time.monotonic()
        self._draw = draw

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        self.note = note or self.note
        self._draw(self)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def remaining(self) -> float | None:
        """Seconds that remain at the pace so far; None before the first step."""
        return self.elapsed / self.done * (self.total - self.done) if self.done else None


class Watcher:
    """Base of the three forms: keeps the stage that advanced last."""

    def __init__(self) -> None:
        self._latest: Stage | None = None

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Stage]:
        stage = self._latest = Stage(title, total, self._advanced)
        self.begin(stage)
        try:
            yield stage
        finally:
            self.end(stage)

    def position(self) -> str:
        """Returns the last step, ` at compress 3/16 (model.layers.2)`, or an empty string before any stage."""
        if self._latest is None:
            return ""
        note = f" ({self._latest.note})" if self._latest.note else ""
        return f" at {self._latest.title} {self._latest.done}/{self._latest.total}{note}"

    def _advanced(self, stage: Stage) -> None:
        self._latest = stage
        self.draw(stage)

    def begin(self, stage: Stage) -> None:
        self.draw(stage)

    def draw(self, stage: Stage) -> None:
        raise NotImplementedError

    def end(self, stage: Stage) -> None:
        self.draw(stage)

    def note(self, text: str) -> None:
        raise NotImplementedError


class Lines(Watcher):
    """Plain lines: one when a stage begins, one when it ends, and one every `every` seconds in between."""

    def __init__(self, stream: TextIO, every: float = 10.0) -> None:
        super().__init__()
        self._stream, self._every, self._last_line = stream, every, 0.0

    def begin(self, stage: Stage) -> None:
        self._print(f"{stage.title} ...")

    def draw(self, stage: Stage) -> None:
        if time.monotonic() - self._last_line >= self._every and stage.done < stage.total:
            remaining = "" if stage.remaining is None else f", {clock(stage.remaining)} left"
            note = f" {stage.note}" if stage.note else ""
            self._print(f"{stage.title} {stage.done}/{stage.total}{note} ({clock(stage.elapsed)}{remaining})")

    def end(self, stage: Stage) -> None:
        self._print(f"{stage.title} {stage.done}/{stage.total} in {clock(stage.elapsed)}")

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, line: str) -> None:
        self._last_line = time.monotonic()
        print(line, file=self._stream, flush=True)


class Bars(Watcher):
    """Rich bars with the remaining time; a finished bar stays and shows the time it took."""

    def __init__(self, target: Console) -> None:
        super().__init__()
        self._console = target
        self._live: RichProgress | None = None
        self._tasks: dict[Stage, TaskID] = {}

    def begin(self, stage: Stage) -> None:
        if self._live is None:
            self._live = RichProgress(
                TextColumn("{task.description}", table_column=Column(min_width=21, no_wrap=True)),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                TextColumn("[dim]{task.fields[note]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
                console=self._console,
                refresh_per_second=5,
                expand=True,
            )
            self._live.start()
        self._tasks[stage] = self._live.add_task(stage.title, total=stage.total, note="")

    def draw(self, stage: Stage) -> None:
        assert self._live is not None, "a stage is drawn only while it runs"
        note = "" if stage.done >= stage.total else stage.note
        self._live.update(self._tasks[stage], completed=stage.done, note=note)

    def end(self, stage: Stage) -> None:
        self.draw(stage)
        del self._tasks[stage]
        if not self._tasks and self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        self._console.print(text, markup=False)


class Warnings(Lines):
    """Nothing but the notes that are warnings."""

    def begin(self, stage: Stage) -> None:
        pass

    def draw(self, stage: Stage) -> None:
        pass

    def end(self, stage: Stage) -> None:
        pass

    def note(self, text: str) -> None:
        if text.casefold().startswith("warning"):
            super().note(text)


class Notebook(Watcher):
    """One HTML bar per stage, updated through IPython's display; needs no widgets, and is saved with the notebook."""

    def __init__(self, display: Callable[..., Any]) -> None:
        super().__init__()
        self._display = display
        self._handles: dict[Stage, Any] = {}
        self._drawn = 0.0

    def begin(self, stage: Stage) -> None:
        self._handles[stage] = self._display({"text/html": self._html(stage)}, raw=True, display_id=True)

    def draw(self, stage: Stage) -> None:
        if time.monotonic() - self._drawn >= 0.2:
            self._show(stage)

    def end(self, stage: Stage) -> None:
        self._show(stage)

    def note(self, text: str) -> None:
        self._display({"text/plain": text}, raw=True)

    def _show(self, stage: Stage) -> None:
        self._drawn = time.monotonic()
        self._handles[stage].update({"text/html": self._html(stage)}, raw=True)

    @staticmethod
    def _html(stage: Stage) -> str:
        finished = stage.done >= stage.total
        remaining = "" if stage.remaining is None or finished else f" &lt; {clock(stage.remaining)}"
        return (
            f"<code>{html.escape(stage.title)} <progress value={stage.done} max={stage.total}></progress> "
            f"{stage.done}/{stage.total} [{clock(stage.elapsed)}{remaining}] {html.escape(stage.note)}</code>"
        )


def watch() -> Watcher:
    """Returns the form for the present stderr (a notebook, a terminal, or anything else) and the detail asked for."""
    if DETAIL.get() is not Detail.NORMAL:
        return Warnings(sys.stderr) if DETAIL.get() is Detail.QUIET else Lines(sys.stderr, every=0.0)
    target = console(stderr=True)
    if target.is_jupyter:
        from IPython.display import display  # type: ignore[import-not-found,unused-ignore]

        return Notebook(display)
    return Bars(target) if target.is_terminal else Lines(sys.stderr)
