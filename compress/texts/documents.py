"""Picks the documents out of rows: the text column, the only column that holds text, or conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import TextError, did_you_mean
from compress.texts.chat import CHAT_FIELDS, chat_text, is_conversation, messages_of
from compress.texts.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT = "text"
_WIDE = 0x2E80  # from here on scripts that write without spaces


def documents_in(
    rows: Rows, source: str, tokenizer: PreTrainedTokenizerBase | None = None, column: str | None = None
) -> list[str]:
    """Returns the documents in rows of a file or data set. Rows whose text is null, missing or blank are left out.

    Args:
        rows: places and rows; a row that is itself a text is a document.
        source: what errors call it.
        tokenizer: writes conversations with its chat template; without one they are refused.
        column: the column to take. None takes `text`, else a chat column, else the only one that holds text.

    Raises:
        TextError: no such column, several that could be meant (they are named), or a value that is no text.
    """
    tables = [(place, row) for place, row in rows if isinstance(row, dict)]
    if tables:
        column = chosen_column(column, tables, source)
    documents = []
    for place, row in rows:
        value = row.get(column) if isinstance(row, dict) else row
        if value is None or (column in CHAT_FIELDS and value == []):
            continue
        if is_conversation(value) or (column in CHAT_FIELDS and not isinstance(value, str)):
            value = _conversation(value, tokenizer, f"{source} {place}")
        if not isinstance(value, str):
            raise TextError(f"{source} {place}: {column or TEXT}={str(value)[:80]!r}", allowed="a text, or null")
        documents.append(value)
    return [text for text in documents if text.strip()]


def _conversation(value: Any, tokenizer: PreTrainedTokenizerBase | None, place: str) -> str:
    if tokenizer is None:
        raise TextError(f"{place} is a conversation, which needs a tokenizer to be written as text")
    return chat_text(messages_of(value, place), tokenizer, answer_next=False)


def chosen_column(column: str | None, tables: Rows, source: str) -> str:
    """Returns the column that `documents_in` takes; all rows are dictionaries."""
    names: list[str] = list(dict.fromkeys(name for _, row in tables for name in row))
    if column is not None:
        if column not in names:
            hint = did_you_mean(column, names)
            raise TextError(
                f"{source} has no column {column!r}" + (f"; {hint}" if hint else ""), allowed=", ".join(names)
            )
        return column
    for name in (TEXT, *CHAT_FIELDS):
        if name in names:
            return name
    texts = [name for name in names if _holds_text([row.get(name) for _, row in tables])]
    if len(texts) == 1:
        return texts[0]
    place = f"{source} {tables[0][0]} has no field {TEXT}"
    if texts:
        raise TextError(
            f"{place}, and several of its fields hold text: {', '.join(texts)}",
            do=f"Name one after a colon: {source}:{texts[0]}",
        )
    raise TextError(
        f"{place}; its fields are {', '.join(names) or 'none'}",
        allowed='rows like {"text": "…"} or {"messages": [{"role": "user", "content": "…"}]}',
        do="Name the field after a colon" if names else None,
    )


def _holds_text(values: Sequence[Any]) -> bool:
    """Whether most values are texts of several words, as ids, languages and addresses are not."""
    there = [value for value in values if value is not None]
    if not there or not all(isinstance(value, str) for value in there):
        return False
    prose: Callable[[str], bool] = lambda text: len(text.split()) > 1 or any(ord(c) >= _WIDE for c in text)  # noqa: E731
    return sum(map(prose, there)) * 2 > len(there)
