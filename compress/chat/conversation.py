"""A conversation with one model, or with the same questions to two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from compress.errors import TextError

if TYPE_CHECKING:
    from compress.chat.screen import Screen
    from compress.chat.speaker import Answer, Speaker


@dataclass
class Conversation:
    """The models and what was said."""

    model: Speaker
    against: Speaker | None = None
    """The model beside it, mostly the dense one."""
    fingerprint: str | None = None
    """That of the checkpoint, where `model` is one."""
    turns: list[dict[str, Any]] = field(default_factory=list)
    """As chat.json has them."""

    @property
    def speakers(self) -> Sequence[Speaker]:
        """The models, the one beside first."""
        return [self.model] if self.against is None else [self.against, self.model]

    @property
    def system(self) -> str | None:
        """The system message."""
        return self.model.system

    def instruct(self, text: str | None) -> None:
        """Sets the system message, or removes it, and begins a new conversation.

        Raises:
            TextError: a model has no chat template, so that there is no place for one.
        """
        for speaker in self.speakers:
            if text and not speaker.has_template:
                raise TextError(f"{speaker.name} has no chat template, and so no system message")
        for speaker in self.speakers:
            speaker.system = text or None
        self.reset()

    def reset(self) -> None:
        """Begins a new conversation with the same system message."""
        self.turns = []
        for speaker in self.speakers:
            speaker.reset()

    def ask(self, text: str, screen: Screen) -> None:
        """Has every model answer, one after the other, and shows the answers while they are written.

        Raises:
            TextError: the conversation does not fit into a model's context; none of them has answered then.
        """
        prompts = [speaker.prompt(text) for speaker in self.speakers]
        answers: list[Answer] = []
        with screen.answers([speaker.name for speaker in self.speakers]) as hear:
            for place, (speaker, ids) in enumerate(zip(self.speakers, prompts, strict=True)):
                answers.append(speaker.answer(text, ids, len(self.turns), partial(hear, place)))
        for speaker, answer in zip(self.speakers, answers, strict=True):
            screen.told(speaker.name if self.against else "", answer, speaker.settings.max_new_tokens)
        turn = {"prompt": text, "answer": answers[-1].record()}
        self.turns.append(turn if self.against is None else {**turn, "against": answers[0].record()})

    def record(self) -> dict[str, Any]:
        """Returns the conversation as chat.json has it."""
        settings = self.model.settings
        return {
            "model": self.model.name,
            **({"against": self.against.name} if self.against else {}),
            **({"fingerprint": self.fingerprint} if self.fingerprint else {}),
            **({"system": self.system} if self.system else {}),
            "settings": {
                "template": self.model.has_template,
                "temperature": settings.temperature,
                "max_new_tokens": settings.max_new_tokens,
                "seed": settings.seed,
            },
            "turns": list(self.turns),
        }
