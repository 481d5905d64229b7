"""Selects the items to ask: a seeded, stratified subset of the items that fit into the model's context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.errors import EvaluationError
from compress.evaluation.suites.base import Ask, Chat, Family, Item
from compress.texts.chat import chat_text
from compress.texts.special_tokens import TextEncoder, text_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 0
_SPARE = 8  # tokens: for the start token, and because a generated text can grow when it is encoded again
_UNKNOWN_ROOM = 2048  # tokens, for a configuration without a context length; lm-eval assumes the same


@dataclass(frozen=True)
class Selection:
    """The selected items of one family, in suite order, each in the longest form that fits."""

    items: Sequence[Item]
    left_out: int = 0


def room_of(model: PreTrainedModel) -> int:
    """Returns the context length of the model in tokens."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or _UNKNOWN_ROOM)


def longest_answer(ask: Ask, room: int) -> int:
    """Returns the largest answer length in tokens: the question's limit, but at most a quarter of the context."""
    return min(ask.max_tokens, max(1, room // 4))


def chat_form(tokenizer: PreTrainedTokenizerBase) -> Chat:
    """Returns the function that formats conversations: by the tokenizer's chat template, else as `User:`/`Assistant:`
    turns."""
    return lambda messages: chat_text(messages, tokenizer, answer_next=True)


def select(
    families: Sequence[Family], tokenizer: PreTrainedTokenizerBase, room: int, limit: int | None = None
) -> dict[str, Selection]:
    """Returns the items to ask, by family. Families without a fitting item are omitted; of no families, none are left.

    In families with `leave_out` the items are drawn from those that fit, so the limit is reached if enough items fit.
    Raises EvaluationError if no item of any family fits.
    """
    chat = chat_form(tokenizer)
    encoder = text_encoder(tokenizer)
    chosen = {family.name: _of_family(family, encoder, room, chat, limit) for family in families}
    kept = {name: selection for name, selection in chosen.items() if selection.items}
    if families and not kept:
        raise EvaluationError(
            f"no item of the suite fits into the {room} tokens of the model's context",
            do="Evaluate a model with a longer context, or with a suite of shorter prompts",
        )
    return kept


def warnings(families: Sequence[Family], chosen: Mapping[str, Selection], room: int) -> list[str]:
    """Returns one warning for every family with items that are too long."""
    messages = []
    for family in families:
        if family.name not in chosen:
            messages.append(
                f"{family.name}: every item is longer than the {room} tokens that the model takes; left out"
            )
        elif left_out := chosen[family.name].left_out:
            asked = len(chosen[family.name].items)
            messages.append(
                f"{family.name}: {left_out:,} of {left_out + asked:,} items are longer than the {room} tokens that the "
                "model takes; left out"
            )
    return messages


def _of_family(family: Family, encoder: TextEncoder, room: int, chat: Chat, limit: int | None) -> Selection:
    if not family.leave_out:
        return Selection([next(iter(family.shorter(item))) for item in family.subset(limit, SEED)])
    kept: dict[int, Item] = {}
    left_out = 0
    for index in family.order(SEED):
        if limit is not None and len(kept) == limit:
            break
        fitting = next(
            (form for form in family.shorter(family.items[index]) if _fits(family, form, encoder, room, chat)), None
        )
        if fitting is None:
            left_out += 1
        else:
            kept[index] = fitting
    return Selection([kept[index] for index in sorted(kept)], left_out)


def _fits(family: Family, item: Item, encoder: TextEncoder, room: int, chat: Chat) -> bool:
    """Whether all prompts of the item fit, if answers that become part of a prompt have their largest length."""
    answers = {ask.name: longest_answer(ask, room) for ask in family.asks if ask.kind == "answer"}
    if family.prepare is not None:
        item = family.prepare(item, dict.fromkeys(answers, ""), chat)
    for ask in family.asks:
        if ask.prompt not in item:
            continue
        text = _longest(item[ask.prompt]) + (_longest(item[ask.target]) if ask.target else "")
        needed = _SPARE + answers.get(ask.name, 0) + sum(answers[name] for name in ask.needs)
        # a text has at most one token per byte, so short texts pass without the tokenizer
        if len(text.encode()) + needed > room and len(encoder(text)) + needed > room:
            return False
    return True


def _longest(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else max(text, key=lambda part: len(part.encode()))
