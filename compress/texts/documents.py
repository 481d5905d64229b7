"""Picks the documents out of rows: the text column, the only column that holds text, or conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from compress.errors import TextError, did_you_mean
from compress.texts.chat import (
    CHAT_FIELDS,
    Message,
    chat_text,
    exchange_columns,
    exchange_of,
    is_conversation,
    messages_of,
    system_merged,
)
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
        column: the column to take. None takes `text`, else a chat column, else a question with its answer (see
            `exchange_columns`), else the only column that holds text.

    Raises:
        TextError: no such column, several that could be meant (they are named), a value that is no text, or a
            conversation that the chat template refuses.
    """
    tables = [(place, row) for place, row in rows if isinstance(row, dict)]
    exchange = None
    if tables:
        names = column_names(tables)
        if column is None and not {TEXT, *CHAT_FIELDS} & set(names):
            exchange = exchange_columns(names)
        column = None if exchange else chosen_column(column, tables, source)
    documents = []
    for place, row in rows:
        if exchange and isinstance(row, dict):
            messages = exchange_of(row, exchange)
        else:
            value = row.get(column) if isinstance(row, dict) else row
            if value is None or (column in CHAT_FIELDS and value == []):
                continue
            if not is_conversation(value) and (column not in CHAT_FIELDS or isinstance(value, str)):
                if not isinstance(value, str):
                    raise TextError(
                        f"{source} {place}: {column or TEXT}={str(value)[:80]!r}", allowed="a text, or null"
                    )
                documents.append(value)
                continue
            messages = messages_of(value, f"{source} {place}")
        if messages and any(message["content"].strip() for message in messages):
            documents.append(_written(messages, tokenizer, f"{source} {place}"))
    return [text for text in documents if text.strip()]


def _written(messages: list[Message], tokenizer: PreTrainedTokenizerBase | None, place: str) -> str:
    """The conversation as text; a template that takes no system message gets it inside the user's first one."""
    if tokenizer is None:
        raise TextError(f"{place} is a conversation, which needs a tokenizer to be written as text")
    try:
        return chat_text(messages, tokenizer, answer_next=False)
    except TextError as error:
        if (merged := system_merged(messages)) is None:
            raise TextError(f"{place}: {error.given}", do=error.do) from error
    return _written(merged, tokenizer, place)


def text_column(tables: Rows, source: str) -> str | None:
    """Returns the column that `documents_in` takes when none is named; None for a question with its answer.

    All rows are dictionaries. TextError when there is none, or several could be meant.
    """
    names = column_names(tables)
    if not {TEXT, *CHAT_FIELDS} & set(names) and exchange_columns(names):
        return None
    return chosen_column(None, tables, source)


def column_names(tables: Rows) -> list[str]:
    """Returns the names of all columns, in the order in which they appear; all rows are dictionaries."""
    return list(dict.fromkeys(name for _, row in tables for name in row))


def chosen_column(column: str | None, tables: Rows, source: str) -> str:
    """Returns the column that `documents_in` takes; all rows are dictionaries."""
    names = column_names(tables)
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
            do=f"Name one with --column {texts[0]}, or after a colon: {source}:{texts[0]}",
        )
    raise TextError(
        f"{place}; its fields are {', '.join(names) or 'none'}",
        allowed='rows like {"text": "…"} or {"messages": [{"role": "user", "content": "…"}]}',
        do="Name the field with --column" if names else None,
    )


def _holds_text(values: Sequence[Any]) -> bool:
    """Whether most values are texts of several words, as ids, languages and addresses are not."""
    there = [value for value in values if value is not None]
    if not there or not all(isinstance(value, str) for value in there):
        return False
    prose: Callable[[str], bool] = lambda text: len(text.split()) > 1 or any(ord(c) >= _WIDE for c in text)  # noqa: E731
    return sum(map(prose, there)) * 2 > len(there)
