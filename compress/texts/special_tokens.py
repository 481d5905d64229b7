"""Encodes text with the tokenizer's special tokens before it (BOS, CLS) and without those after it (EOS, SEP).

A tokenizer's post-processor may add BOS, CLS, EOS or SEP. Tokens before the text are kept, because the model was
trained with them. Tokens after the text are left out: they end it, and a model does not continue an ended prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.errors import TextError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBES = ("a", "Hello", "12 and 3")
_CURE = "Give a tokenizer whose special tokens can be switched off with add_special_tokens=False"


@dataclass(frozen=True)
class TextEncoder:
    """Encodes text to token ids with explicit special tokens. Made by `text_encoder`."""

    tokenizer: PreTrainedTokenizerBase
    start: tuple[int, ...]
    """Tokens that the tokenizer puts before every text (BOS, CLS); empty if there are none."""
    end: int | None
    """Token that ends a text: EOS, else SEP; None if the tokenizer has neither."""

    def plain(self, text: str) -> list[int]:
        """Returns the ids of `text` alone."""
        return _encode(self.tokenizer, [text], special=False)[0]

    def __call__(self, text: str) -> list[int]:
        """Returns the ids of `text` after `start`, which is not doubled when the text begins with it (chat templates).

        Nothing is added after the text.
        """
        return self._started(self.plain(text))

    def documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of whole documents, each after `start` and before `end`, neither of them doubled."""
        return [self._ended(self._started(ids)) for ids in _encode(self.tokenizer, texts, special=False)]

    def _started(self, ids: list[int]) -> list[int]:
        start = list(self.start)
        return ids if ids[: len(start)] == start else start + ids

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if self.end is None or ids[-1:] == [self.end] else [*ids, self.end]

    @property
    def separator(self) -> tuple[int, ...]:
        """Tokens between documents laid end to end: `start`, else EOS, else BOS; empty if the tokenizer has none."""
        if self.start:
            return self.start
        ids = (self.end, getattr(self.tokenizer, "bos_token_id", None))
        return next(((token,) for token in ids if token is not None), ())


def text_encoder(tokenizer: PreTrainedTokenizerBase) -> TextEncoder:
    """Returns the encoder of a tokenizer, fast or slow.

    The tokens before a text are found by encoding short texts with and without special tokens.

    Raises:
        TextError: the tokenizer adds special tokens although it is told not to, or puts them inside the text.
    """
    plain, full = (_encode(tokenizer, _PROBES, special=special) for special in (False, True))
    _refuse_untold(tokenizer, plain)
    starts = {_before(ids, whole) for ids, whole in zip(plain, full, strict=True)}
    start = starts.pop()
    if starts or start is None:
        raise TextError(
            "the tokenizer puts special tokens inside the text, or its special tokens differ from text to text",
            allowed="special tokens before and after the text",
            do=_CURE,
        )
    ends = (getattr(tokenizer, name, None) for name in ("eos_token_id", "sep_token_id"))
    return TextEncoder(tokenizer, start, next((token for token in ends if token is not None), None))


def _encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    encoded = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
    return [list(ids) for ids in encoded]


def _refuse_untold(tokenizer: PreTrainedTokenizerBase, plain: list[list[int]]) -> None:
    """Raises TextError if the tokenizer adds special tokens although `add_special_tokens` is False.

    The probes end in different characters, so a last token that all of them share was added. Their first token may be
    a space.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)  # a small vocabulary may encode every word as this token
    special = set(getattr(tokenizer, "all_special_ids", ()))
    for place, where in ((0, "before"), (-1, "after")):
        added = {ids[place] for ids in plain if ids}
        if len(added) != 1 or (token := added.pop()) == unknown:
            continue
        if token in special or where == "after":
            raise TextError(
                f"the tokenizer puts {tokenizer.convert_ids_to_tokens(token)!r} {where} every text, "
                "although add_special_tokens is False",
                do=_CURE,
            )


def _before(plain: list[int], full: list[int]) -> tuple[int, ...] | None:
    """The ids of `full` before those of `plain`; None if these do not stand in it as they are."""
    for place in range(len(full) - len(plain) + 1):
        if full[place : place + len(plain)] == plain:
            return tuple(full[:place])
    return None
