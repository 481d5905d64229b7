"""Selects the items to ask: a seeded, stratified subset of those that fit into the model's context."""

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
_SPARE = 8  # tokens: the start, and a generated text that is encoded again may become a little longer
_UNKNOWN_ROOM = 2048  # tokens, for a configuration that names no context; lm-eval assumes the same


@dataclass(frozen=True)
class Selection:
    """The items of one family, in suite order, in the forms that fit."""

    items: Sequence[Item]
    left_out: int = 0


def room_of(model: PreTrainedModel) -> int:
    """Returns how many tokens the model takes."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or _UNKNOWN_ROOM)


def longest_answer(ask: Ask, room: int) -> int:
    """Returns the limit of an answer in tokens: that of the question, but at most a quarter of the room."""
    return min(ask.max_tokens, max(1, room // 4))


def chat_form(tokenizer: PreTrainedTokenizerBase) -> Chat:
    """Returns how conversations are written: the tokenizer's chat template, or `User:` and `Assistant:` by turns."""
    return lambda messages: chat_text(messages, tokenizer, answer_next=True)


def select(
    families: Sequence[Family], tokenizer: PreTrainedTokenizerBase, room: int, limit: int | None = None
) -> dict[str, Selection]:
    """Returns the items to ask by family; one that has none left is not among them.

    Families that leave out are drawn from the items that fit, so that a limit is reached while there are enough of
    them. Raises EvaluationError when nothing at all fits.
    """
    chat = chat_form(tokenizer)
    encoder = text_encoder(tokenizer)
    chosen = {family.name: _of_family(family, encoder, room, chat, limit) for family in families}
    kept = {name: selection for name, selection in chosen.items() if selection.items}
    if not kept:
        raise EvaluationError(
            f"no item of the suite fits into the {room} tokens that the model takes",
            do="Evaluate a model with a longer context, or with a suite of shorter prompts",
        )
    return kept


def warnings(families: Sequence[Family], chosen: Mapping[str, Selection], room: int) -> list[str]:
    """Returns what was left out, in words."""
    said = []
    for family in families:
        if family.name not in chosen:
            said.append(f"{family.name}: every item is longer than the {room} tokens that the model takes; left out")
        elif left_out := chosen[family.name].left_out:
            asked = len(chosen[family.name].items)
            said.append(
                f"{family.name}: {left_out:,} of {left_out + asked:,} items are longer than the {room} tokens that the "
                "model takes; left out"
            )
    return said


def _of_family(family: Family, encoder: TextEncoder, room: int, chat: Chat, limit: int | None) -> Selection:
    if not family.leave_out:
        return Selection(family.subset(limit, SEED))
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
    """Whether everything asked of the item has room, answers of other questions in it at their longest."""
    answers = {ask.name: longest_answer(ask, room) for ask in family.asks if ask.kind == "answer"}
    if family.prepare is not None:
        item = family.prepare(item, dict.fromkeys(answers, ""), chat)
    for ask in family.asks:
        if ask.prompt not in item:
            continue
        text = _longest(item[ask.prompt]) + (_longest(item[ask.target]) if ask.target else "")
        needed = _SPARE + answers.get(ask.name, 0) + sum(answers[name] for name in ask.needs)
        # no token is longer than its text in bytes: short texts need no tokenizer
        if len(text.encode()) + needed > room and len(encoder(text)) + needed > room:
            return False
    return True


def _longest(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else max(text, key=lambda part: len(part.encode()))
