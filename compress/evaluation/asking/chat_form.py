"""Puts questions into the chat template of a chat model, for the kinds of question that are asked that way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compress.errors import EvaluationError, unknown
from compress.evaluation.suites.base import Ask, Family, Item
from compress.texts.chat import chat_text, has_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODES = ("auto", "always", "never")
ANSWERS = "answers"
"""`auto` for a chat model: questions that the model answers in its own words are asked through the template."""
_KINDS: Mapping[str, frozenset[str]] = {
    "never": frozenset(),
    ANSWERS: frozenset({"answer"}),
    "always": frozenset({"answer", "choose", "recall"}),
}
_IN_CHAT = "_in_chat"
_PROBE = "gorgeous weather"


def resolve(mode: str, tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> str:
    """Returns `never`, `answers` or `always` for one of `MODES`, or for one of these three themselves.

    `auto` is `answers` for a chat model and `never` for others; see `is_chat_model` for the arguments.
    Raises EvaluationError for another mode, and for `always` without a chat template.
    """
    if mode == "auto":
        return ANSWERS if is_chat_model(tokenizer, ends) else "never"
    if mode not in _KINDS:
        raise EvaluationError(unknown("chat mode", mode, MODES), allowed=", ".join(MODES))
    if mode != "never" and not has_template(tokenizer):
        raise EvaluationError(
            f"chat={mode!r}, but the model's tokenizer has no chat template", do="Leave --chat out, or give never"
        )
    return mode


def is_chat_model(tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> bool:
    """Returns whether a model was trained to answer in its chat template.

    Many base models have a template too. A chat model ends its turn with the token that the template writes after an
    answer, so that token is one of `ends`, at which generation stops (ids).
    """
    if not has_template(tokenizer):
        return False
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": _PROBE}]
    _, _, after = chat_text(turns, tokenizer, answer_next=False).rpartition(_PROBE)
    ids = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"]
    return bool(ids) and ids[0] in ends


def dressed(families: Sequence[Family], tokenizer: PreTrainedTokenizerBase, mode: str) -> tuple[Family, ...]:
    """Returns the families with the prompts of `mode` (see `resolve`) as messages of the user.

    Choices and references are then the assistant's text, without the space that separates them from a plain prompt.
    Families that write their conversations themselves (`Family.prepare`) stay as they are, and so do questions of the
    kind `complete`, whose text goes on from the prompt.
    """
    kinds = _KINDS[mode]

    def in_chat(text: str) -> str:
        return chat_text([{"role": "user", "content": text}], tokenizer, answer_next=True)

    def one(family: Family) -> Family:
        asked = [ask for ask in family.asks if ask.kind in kinds]
        if family.prepare is not None or not asked:
            return family

        def forms(item: Item) -> Iterable[Item]:
            for form in family.shorter(item):
                yield {**form, **{key: value for ask in asked for key, value in _parts(ask, form, in_chat)}}

        return replace(family, asks=tuple(_renamed(ask) if ask in asked else ask for ask in family.asks), shorter=forms)

    return tuple(map(one, families))


def _parts(ask: Ask, item: Item, in_chat: Callable[[str], str]) -> Iterable[tuple[str, object]]:
    """Yields the keys and values that the question needs in the chat; none if it is not asked about this item."""
    if ask.prompt not in item:
        return
    yield ask.prompt + _IN_CHAT, in_chat(item[ask.prompt])
    if ask.target:
        target = item[ask.target]
        bare = target.lstrip() if isinstance(target, str) else [text.lstrip() for text in target]
        yield ask.target + _IN_CHAT, bare


def _renamed(ask: Ask) -> Ask:
    return replace(ask, prompt=ask.prompt + _IN_CHAT, target=ask.target + _IN_CHAT if ask.target else "")
