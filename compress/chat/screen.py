"""Shows answers while they are written: one below the other, or two side by side on a wide terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.live import Live
from rich.table import Table
from rich.text import Text

from compress.chat.speaker import CONTEXT, INTERRUPTED, LENGTH, Answer
from compress.report.console import console

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 90
"""Columns of a terminal on which two answers stand side by side."""
_WHY = {
    LENGTH: "cut off after {most} tokens; --max-new-tokens allows more",
    CONTEXT: "cut off: the model's context is full; /reset begins a new conversation",
    INTERRUPTED: "stopped",
}
Hear = Callable[[int, str], None]
"""Takes the place of a model and a piece of its answer."""


class Screen(Protocol):
    """Where a conversation is shown."""

    def answers(self, names: Sequence[str]) -> AbstractContextManager[Hear]:
        """Returns a context manager for the answers of the models to one question."""

    def told(self, name: str, answer: Answer, most: int) -> None:
        """Says how an answer ended."""

    def note(self, text: str) -> None:
        """Says something that is no answer."""


class Plain:
    """Answers on stdout as they are written, one below the other, and everything else on stderr."""

    def __init__(self, *, interactive: bool) -> None:
        self._interactive = interactive

    @contextmanager
    def answers(self, names: Sequence[str]) -> Iterator[Hear]:
        """See `Screen.answers`."""
        begun: list[int] = []

        def hear(place: int, text: str) -> None:
            if not begun or begun[-1] != place:
                if begun:
                    print()
                if len(names) > 1:
                    print(f"{names[place]}:")
                begun.append(place)
                text = text.lstrip("\n")
            print(text, end="", flush=True)

        try:
            yield hear
        finally:
            print(flush=True)

    def told(self, name: str, answer: Answer, most: int) -> None:
        """See `Screen.told`."""
        told(self.note, name, answer, most, rate=self._interactive)

    def note(self, text: str) -> None:
        """See `Screen.note`."""
        print(text, file=sys.stderr, flush=True)


class SideBySide:
    """Two answers in columns. While they are written the last lines are shown; at the end all of them."""

    def __init__(self, on: Console | None = None) -> None:
        self._console = on or console()

    @contextmanager
    def answers(self, names: Sequence[str]) -> Iterator[Hear]:
        """See `Screen.answers`."""
        texts = [""] * len(names)
        with Live(console=self._console, auto_refresh=False, transient=True) as live:

            def hear(place: int, text: str) -> None:
                texts[place] += text
                live.update(self._table(names, texts, self._console.height - 4), refresh=True)

            try:
                yield hear
            finally:
                live.update(Text(""), refresh=True)
        self._console.print(self._table(names, texts, None))

    def _table(self, names: Sequence[str], texts: Sequence[str], lines: int | None) -> Table:
        """Returns the columns, with the last `lines` lines of each text."""
        width = (self._console.width - 3 * (len(names) - 1)) // len(names)
        table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False)
        for name in names:
            table.add_column(Text(name), width=width, overflow="fold")
        table.add_row(*(self._tail(text, width, lines) for text in texts))
        return table

    def _tail(self, text: str, width: int, lines: int | None) -> Text:
        whole = Text(text.strip("\n"))
        if lines is None:
            return whole
        return Text("\n").join(list(whole.wrap(self._console, width))[-max(lines, 1) :])

    def told(self, name: str, answer: Answer, most: int) -> None:
        """See `Screen.told`."""
        told(self.note, name, answer, most, rate=True)

    def note(self, text: str) -> None:
        """See `Screen.note`."""
        self._console.print(Text(text, style="dim"))


def told(note: Callable[[str], None], name: str, answer: Answer, most: int, *, rate: bool) -> None:
    """Notes why an answer did not end by itself, and with `rate` its tokens per second."""
    parts = [_WHY[answer.stopped].format(most=most)] if answer.stopped in _WHY else []
    if rate and answer.tokens:
        parts.insert(0, f"{answer.tokens} tokens, {answer.tokens / answer.seconds:.1f} tokens/s")
    if parts:
        note(f"[{name}{': ' if name else ''}{'; '.join(parts)}]")


def choose(*, interactive: bool, columns: int) -> Screen:
    """Returns the screen for so many answers to a question."""
    on = console()
    return SideBySide(on) if interactive and columns > 1 and on.width >= WIDE else Plain(interactive=interactive)
