"""Finds what a chat template puts around the turns of a conversation, so that a model can write the turns itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.calibration.writing import ChatParts
from compress.errors import TextError
from compress.texts.chat import by_turns, chat_text
from compress.texts.special_tokens import text_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TURNS = ("qxquestion", "qxanswer", "qxfollowing", "qxclosing")
"""Turns of the rendered conversation: plain words, which a template leaves as they are."""


def chat_parts(tokenizer: PreTrainedTokenizerBase) -> ChatParts:
    """Returns the token ids around the turns of a conversation of two exchanges.

    The parts between turns are those that the template writes when it is asked for the next answer.

    Raises:
        TextError: the template refuses a plain conversation, or does not write its turns as they are.
    """
    whole = _pieces(tokenizer, 4, answer_next=False)
    asked = _pieces(tokenizer, 3, answer_next=True)
    encoder = text_encoder(tokenizer)
    opening, to_answer, to_question, closing = asked[0], asked[-1], asked[2], whole[-1]
    end = [] if encoder.end is None else [encoder.end]
    ended = encoder.plain(closing)
    return ChatParts(
        opening=tuple(encoder(opening)),
        to_answer=tuple(encoder.plain(to_answer)),
        to_question=tuple(encoder.plain(to_question)),
        closing=tuple(ended if ended[-1:] == end else [*ended, *end]),
    )


def _pieces(tokenizer: PreTrainedTokenizerBase, turns: int, *, answer_next: bool) -> list[str]:
    """The text before, between and after the first turns of a conversation."""
    text = chat_text(by_turns(_TURNS[:turns]), tokenizer, answer_next=answer_next)
    pieces = []
    for turn in _TURNS[:turns]:
        piece, found, text = text.partition(turn)
        if not found:
            raise TextError(
                "the model's chat template does not write the messages of a conversation as they are",
                do="Give conversations in a file: --calibration FILE",
            )
        pieces.append(piece)
    return [*pieces, text]
