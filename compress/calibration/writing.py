"""Lets a language model write text: batched sampling with a KV cache, rows that are plain text or conversations.

Every row is one sequence of tokens, from its first token to its last. Rows differ in what they are asked to write, but
not in length, so no padding is needed: the tokens that a row must hold (its first word, the parts of the chat template)
are put in where the others are sampled.

Shape letters: S rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress.progress import Task

CANDIDATES = 256
"""Tokens are drawn from so many of the most likely ones."""
QUESTION_TOKENS, ANSWER_TOKENS = 96, 320
"""Tokens after which a turn of a conversation is ended."""
EXCHANGES = 2
"""Questions with answers in a conversation; then the row begins another one."""
_STEP = 64
"""Positions by which the KV cache grows at once."""


@dataclass(frozen=True, slots=True)
class ChatParts:
    """Token ids that a chat template puts around the turns of a conversation."""

    opening: tuple[int, ...]
    """Before the first question."""
    to_answer: tuple[int, ...]
    """Between a question and its answer."""
    to_question: tuple[int, ...]
    """Between an answer and the next question."""
    closing: tuple[int, ...]
    """After the last answer."""


@dataclass(frozen=True, slots=True)
class Style:
    """What rows are made of. Token ids throughout."""

    start: tuple[int, ...]
    """Tokens before every plain text."""
    first_words: tuple[int, ...]
    """Tokens of which one, drawn with equal chances, begins a plain text."""
    ends: frozenset[int]
    """Tokens that end a text or a turn."""
    vocabulary: int
    """Ids from here on are never drawn: the tokenizer has no such tokens."""
    temperature: float
    chat: ChatParts | None = None


class Row:
    """One sequence while it is written: decides for each position whether a token is put in or sampled."""

    def __init__(self, style: Style, rng: random.Random, *, is_chat: bool):
        self._style, self._rng = style, rng
        self._chat = style.chat if is_chat else None
        self._due: deque[int] = deque()
        self._turn, self._turn_tokens = 0, 0  # even turns are questions
        self._begin()

    def first(self) -> int:
        """Returns the first token of the row."""
        return self._due.popleft()

    def take(self, sampled: int) -> int:
        """Returns the next token of the row: one that is due, else the sampled one."""
        if self._due:
            return self._due.popleft()
        ended = sampled in self._style.ends
        if self._chat is None:
            if ended:
                self._begin()
            return sampled
        self._turn_tokens += 1
        if not ended and self._turn_tokens < (ANSWER_TOKENS if self._turn % 2 else QUESTION_TOKENS):
            return sampled
        self._end_turn(self._chat)
        return self._due.popleft() if ended else sampled

    def _begin(self) -> None:
        """Makes the opening of a text or a conversation due."""
        if self._chat is not None:
            self._due.extend(self._chat.opening)
            self._turn = self._turn_tokens = 0
        else:
            self._due.extend((*self._style.start, self._rng.choice(self._style.first_words)))

    def _end_turn(self, chat: ChatParts) -> None:
        self._turn, self._turn_tokens = self._turn + 1, 0
        if self._turn == 2 * EXCHANGES:
            self._due.extend(chat.closing)
            self._begin()
        else:
            self._due.extend(chat.to_answer if self._turn % 2 else chat.to_question)


class _Writer:
    """A logits processor that leaves one token of each row: the due one or one that it samples."""

    def __init__(self, rows: Sequence[Row], style: Style, generator: torch.Generator, task: Task):
        self._rows, self._style, self._generator, self._task = rows, style, generator, task

    def __call__(self, _: torch.Tensor, logits_SV: torch.Tensor) -> torch.Tensor:
        sampled = sample(logits_SV[:, : self._style.vocabulary], self._style.temperature, self._generator)
        tokens = [row.take(token) for row, token in zip(self._rows, sampled.tolist(), strict=True)]
        chosen_SV = torch.full_like(logits_SV, -torch.inf)
        chosen_SV[torch.arange(len(tokens)), tokens] = 0
        self._task.advance(len(tokens))
        return chosen_SV


def sample(logits_SV: torch.Tensor, temperature: float, generator: torch.Generator) -> torch.Tensor:
    """Returns one token per row, int64 [S], drawn from its `CANDIDATES` most likely ones at a temperature.

    Args:
        logits_SV: any floating-point dtype; computed on in float32.
        temperature: above 0.
        generator: on the CPU, so that a seed draws the same numbers on every device.
    """
    top_SC, ids_SC = logits_SV.float().topk(min(CANDIDATES, logits_SV.shape[1]), dim=-1)
    chances_SC = (top_SC.cpu() / temperature).softmax(-1)
    places_S1 = torch.multinomial(chances_SC, 1, generator=generator)
    return ids_SC.cpu().gather(1, places_S1).squeeze(1)


def write(
    model: PreTrainedModel, style: Style, kinds: Sequence[bool], length: int, seed: int, task: Task
) -> torch.Tensor:
    """Returns the rows that the model writes, int64 [S, T], on the CPU.

    Args:
        model: in evaluation mode.
        style: what the rows are made of.
        kinds: for each row, whether it is a conversation; `style.chat` is then needed.
        length: tokens per row, 2 or more.
        seed: draws the first words and all samples.
        task: advances by one for every token.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    rng = random.Random(seed)
    rows = [Row(style, rng, is_chat=is_chat) for is_chat in kinds]
    first_S1 = torch.tensor([[row.first()] for row in rows], device=model.device)
    task.advance(len(rows))
    writer = _Writer(rows, style, torch.Generator().manual_seed(seed), task)
    model.generation_config = GenerationConfig()  # the model's own may end rows early, or forbid repetition
    settings = GenerationConfig(max_new_tokens=length - 1, do_sample=False, use_cache=True, pad_token_id=0)
    with torch.inference_mode():
        tokens_ST: torch.Tensor = model.generate(
            first_S1,
            generation_config=settings,
            attention_mask=torch.ones_like(first_S1),
            logits_processor=LogitsProcessorList([writer]),
            **_cache(model),
        )
    assert tokens_ST.shape == (len(rows), length), "no row may end early"
    return tokens_ST.cpu()


def _cache(model: PreTrainedModel) -> dict[str, Any]:
    """The KV cache whose layers grow in place; none, so that `generate` makes its own, where layers are of other kinds.

    The layers of transformers are copied as a whole for every token, which takes longer than the model itself.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return {}
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    if not {type(layer) for layer in cache.layers} <= {DynamicLayer, DynamicSlidingWindowLayer}:
        return {}
    growing = _growing_layer()
    cache.layers = [growing() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return {"past_key_values": cache}


def _growing_layer() -> type[Any]:
    from transformers.cache_utils import DynamicLayer

    class GrowingLayer(DynamicLayer):  # type: ignore[misc]
        """Keys and values in buffers that are larger than they are, so that a token is appended without a copy."""

        def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.buffers = [states[..., :0, :] for states in (key_states, value_states)]
                self.length = 0
            new = self.length + key_states.shape[-2]
            for place, states in enumerate((key_states, value_states)):
                if new > self.buffers[place].shape[-2]:
                    self.buffers[place] = _grown(self.buffers[place], self.length, new)
                self.buffers[place][..., self.length : new, :] = states
            self.length = new
            self.keys, self.values = (buffer[..., :new, :] for buffer in self.buffers)
            return self.keys, self.values

    return GrowingLayer


def _grown(buffer: torch.Tensor, length: int, needed: int) -> torch.Tensor:
    """A buffer with room for at least `needed` positions that holds the first `length` of the old one."""
    larger = buffer.new_empty((*buffer.shape[:-2], -(-needed // _STEP) * _STEP, buffer.shape[-1]))
    larger[..., :length, :] = buffer[..., :length, :]
    return larger
