"""A model in a conversation: `Speaker` makes its prompts and has transformers generate its answers."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import TextStreamer

from compress.errors import EvaluationError, TextError, translated
from compress.texts.chat import Message, chat_text, has_template, system_merged
from compress.texts.special_tokens import text_encoder

if TYPE_CHECKING:
    from compress.evaluation.open_model import Subject

END, LENGTH, CONTEXT, INTERRUPTED = "end", "length", "context", "interrupted"
"""Why an answer ended: the model ended it, `max_new_tokens`, the model's context, Ctrl-C."""
_CONTROL = dict.fromkeys([*range(32), *range(127, 160)])
_CONTROL.pop(ord("\n"))
_CONTROL.pop(ord("\t"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How answers are generated."""

    temperature: float = 0.0
    """0: the most probable token each time. Above: sampled, with `top_k` and `top_p` of the model's own settings."""
    max_new_tokens: int = 256
    """Largest length of an answer in tokens."""
    seed: int = 0
    """Seed of the sampling."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said."""

    text: str
    tokens: int
    stopped: str
    """`END`, `LENGTH`, `CONTEXT` or `INTERRUPTED`."""
    seconds: float

    def record(self) -> dict[str, Any]:
        """Returns the answer as chat.json has it."""
        return {"text": self.text, "tokens": self.tokens, "stopped": self.stopped}


class Speaker:
    """A model with its side of a conversation.

    With a chat template it remembers what was said. Without one each prompt is text that it continues, by itself.
    """

    def __init__(self, subject: Subject, settings: Settings) -> None:
        self.name, self.kind = subject.name, subject.kind
        self.settings = settings
        self.has_template = has_template(subject.tokenizer)
        self.system: str | None = None
        self._subject = subject
        self._encode = text_encoder(subject.tokenizer)
        self._said: list[Message] = []

    def reset(self) -> None:
        """Forgets what was said; the system message stays."""
        self._said = []

    def prompt(self, text: str) -> list[int]:
        """Returns the ids of the conversation so far with `text` as the user's next message.

        Raises:
            TextError: the conversation leaves no room for an answer in the model's context, or the template does not
                take it.
        """
        whole = self._rendered([*self._said, {"role": "user", "content": text}]) if self.has_template else text
        ids = self._encode(whole)
        if not ids:
            raise TextError("the text is empty", do="Type something for the model to go on from")
        if len(ids) >= self._subject.room:
            what = "the conversation" if self._said else "the text"
            raise TextError(
                f"{what} is {len(ids):,} tokens long, and the context of {self.name} holds {self._subject.room:,} with "
                "the answer",
                do="/reset begins a new conversation" if self._said else "Give a shorter text",
            )
        return ids

    def _rendered(self, messages: list[Message]) -> str:
        if self.system is None:
            return chat_text(messages, self._subject.tokenizer, answer_next=True)
        whole = [{"role": "system", "content": self.system}, *messages]
        try:
            return chat_text(whole, self._subject.tokenizer, answer_next=True)
        except TextError:  # templates such as that of Gemma take no system message
            merged = system_merged(whole)
            assert merged is not None, "a conversation begins with the user"
            return chat_text(merged, self._subject.tokenizer, answer_next=True)

    def answer(self, text: str, ids: list[int], turn: int, hear: Callable[[str], None]) -> Answer:
        """Returns the answer to a prompt and remembers both; Ctrl-C ends the answer where it is.

        Args:
            text: the user's message.
            ids: its prompt (`prompt`).
            turn: number of the turn, from 0, which goes into the seed.
            hear: is called with each piece of the answer, as soon as it is known.

        Raises:
            EvaluationError: the model cannot compute the answer.
        """
        listener = _Listener(self._subject.tokenizer, hear)
        room = self._subject.room - len(ids)
        most = min(self.settings.max_new_tokens, room)
        started, interrupted = time.perf_counter(), False
        torch.manual_seed(self.settings.seed + turn)
        try:
            with translated(
                f"{self.name} cannot answer", kind=EvaluationError, do="`compress doctor` shows what can run here"
            ):
                ids_1T = torch.tensor([ids], device=self._subject.device)
                self._subject.model.generate(
                    ids_1T,
                    attention_mask=torch.ones_like(ids_1T),  # a token for padding that the prompt holds is read, too
                    generation_config=self._generation(most),
                    streamer=listener,
                )
        except KeyboardInterrupt as stop:
            if type(stop) is not KeyboardInterrupt:  # SIGTERM, which ends the command
                raise
            interrupted = True
            listener.end()
        ended = listener.last in self._subject.ends
        stopped = INTERRUPTED if interrupted else END if ended else LENGTH if most < room else CONTEXT
        said = "".join(listener.pieces)
        if self.has_template:
            self._said += [{"role": "user", "content": text}, {"role": "assistant", "content": said}]
        return Answer(said, listener.tokens, stopped, time.perf_counter() - started)

    def _generation(self, most: int) -> Any:
        config = copy.deepcopy(self._subject.model.generation_config)
        config.update(
            max_new_tokens=most,
            max_length=None,
            do_sample=self.settings.temperature > 0,
            eos_token_id=sorted(self._subject.ends) or None,
            pad_token_id=self._subject.pad,
        )
        if self.settings.temperature > 0:
            config.temperature = self.settings.temperature
        else:  # transformers warns of settings that greedy decoding does not use
            config.temperature = config.top_p = config.top_k = None
        return config


class _Listener(TextStreamer):  # type: ignore[misc]
    """Hands on the text of an answer, word by word, and counts its tokens."""

    def __init__(self, tokenizer: Any, hear: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.pieces: list[str] = []
        self.tokens, self.last = 0, -1
        self._hear = hear

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt:
            self.tokens += 1
            self.last = int(value.flatten()[-1])
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        # a terminal obeys control characters, whoever wrote them
        if shown := text.translate(_CONTROL):
            self.pieces.append(shown)
            self._hear(shown)
