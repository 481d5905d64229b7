"""Reads messages and commands, one a line, and has the models answer (`run`). Start reading here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.chat import saving
from compress.errors import CompressError, OutputError, unknown
from compress.report import chats

if TYPE_CHECKING:
    from compress.chat.conversation import Conversation
    from compress.chat.screen import Screen

HELP = """\
/save          write this conversation into the run's report
/reset         begin a new conversation
/system TEXT   give the models a system message and begin a new conversation; without TEXT, none
/help          show this list
/quit          end (Ctrl-D as well)
Ctrl-C stops an answer. A message that begins with / is sent when a space stands before it."""
_COMMANDS = ("/save", "/reset", "/system", "/help", "/quit", "/exit")
_PROMPT = "> "


@dataclass
class Chat:
    """A conversation on a screen."""

    conversation: Conversation
    folder: Path
    """Where it is saved."""
    screen: Screen
    interactive: bool
    _saved: dict[str, Any] | None = None

    def run(self, lines: Iterable[str]) -> None:
        """Handles the lines until they end or one of them is /quit.

        What a person typed and cannot be done is shown, and the next line is read.

        Raises:
            CompressError: the lines come from a file or a pipe, and one of them cannot be answered.
        """
        for line in lines:
            if not line.strip():
                continue
            if line.strip() in ("/quit", "/exit"):
                return
            try:
                self._handle(line)
            except CompressError as error:
                if not self.interactive:
                    raise
                self.screen.note(f"Error: {error}")

    def _handle(self, line: str) -> None:
        if not line.startswith("/"):
            self.conversation.ask(line.strip(), self.screen)
            return
        name, _, text = line.strip().partition(" ")
        if name == "/save":
            self.save()
        elif name == "/reset":
            self._begin_anew()
            self.screen.note("A new conversation.")
        elif name == "/system":
            self.conversation.instruct(text.strip())
            self._saved = None
            self.screen.note("A new conversation with this system message." if text else "No system message now.")
        elif name == "/help":
            self.screen.note(HELP)
        else:
            raise OutputError(unknown("command", name, _COMMANDS), do="/help lists them")

    def _begin_anew(self) -> None:
        self.conversation.reset()
        self._saved = None

    def save(self) -> None:
        """Writes the conversation so far into the run's chat.json and report.

        Raises:
            OutputError: nothing was said, the folder is not that of a run, or it cannot be written.
        """
        if not self.conversation.turns:
            raise OutputError("nothing was said since the conversation began", do="Ask something first")
        record = self.conversation.record()
        saving.save(self.folder, record, self._saved)
        self._saved = record
        self.screen.note(f"Saved: {self.folder / chats.FILE}, shown in {saving.write_report(self.folder)}")


def opening_lines(conversation: Conversation, *, interactive: bool) -> Iterator[str]:
    """Yields what is said before the first message."""
    for speaker in conversation.speakers:
        if not speaker.has_template:
            yield f"{speaker.name} has no chat template: it continues each text by itself, without what came before."
    if interactive:
        settings = conversation.model.settings
        how = f"temperature {settings.temperature:g}" if settings.temperature else "greedily (temperature 0)"
        yield f"Answers: {how}, at most {settings.max_new_tokens} tokens. /help lists the commands, Ctrl-D ends."


def typed() -> Iterator[str]:
    """Yields the lines that a person types, with the line editing of readline, until Ctrl-D."""
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401
    while True:
        try:
            line = input(_PROMPT)
        except EOFError:
            print()
            return
        except KeyboardInterrupt as stop:
            if type(stop) is not KeyboardInterrupt:  # SIGTERM, which ends the command
                raise
            print("\n(Ctrl-D or /quit ends)")
            continue
        yield line
