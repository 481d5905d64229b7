"""Makes a suite from a file of the user's own closed-book questions.

A row with `question` and `answer` (or `answers`) is a question; `aliases` and `id` are optional. A row with `messages`
is a question in a conversation: the right answer is the assistant's last message, or the field `answer`. A row with
`text` is a document for perplexity and divergence; without such rows the questions and answers serve as documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.errors import EvaluationError
from compress.evaluation import grading
from compress.evaluation.matching import can_match
from compress.evaluation.suites.base import Ask, Chat, Family, Item, Suite
from compress.texts.chat import CHAT_FIELDS, messages_of
from compress.texts.decode import COMPRESSED, base_suffix
from compress.texts.rows import read_rows

VERSION = 1
_TABLES = (".csv", ".tsv")  # a cell is a single text, never a list
_ASKING = ("user", "tool", "function", "ipython")  # roles that the assistant's next message answers
_KNOWN = ("question", "answer", "answers", "aliases", "id", "text", *CHAT_FIELDS)


def suite(path: Path) -> Suite:
    """Returns the suite of a file of rows, without its empty rows.

    Raises EvaluationError, with the line, for a row that is neither a question nor a text.
    """
    items: dict[str, Item] = {}
    documents: list[str] = []
    for place, row in read_rows(path):
        where = f"{path}, {place}"
        if row is None:
            continue
        if not isinstance(row, dict):
            raise EvaluationError(f"{where}: {type(row).__name__}", allowed="a JSON object")
        row = {name: value for name, value in row.items() if value is not None or name in ("question", "answer")}
        if not any(value is not None for value in row.values()):
            continue
        if "text" in row:
            documents.append(_text(row, "text", where))
            continue
        item = _item(row, place, where, table=base_suffix(path) in _TABLES)
        if item["id"] in items:
            raise EvaluationError(f"{where}: duplicate id {item['id']!r}", do="Give every row its own id")
        items[item["id"]] = item
    if not items:
        raise EvaluationError(f"{path} has no question", do='Write lines such as {"question": "…", "answer": "…"}')
    questions = [f"{_asked(item)} {item['answers'][0]}\n" for item in items.values()]
    ask = Ask("answer", "answer", "prompt", grading.fact, max_tokens=32)
    prepare = _in_conversation if any("messages" in item for item in items.values()) else None
    family = Family("factoid", "contains", "binary", list(items.values()), (ask,), prepare=prepare)
    name = (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).stem
    return Suite(name, VERSION, (family,), lambda: documents or questions)


def _item(row: dict[str, Any], place: str, where: str, *, table: bool) -> Item:
    identifier = str(row.get("id", place.replace(" ", "/")))
    chat = next((row[name] for name in CHAT_FIELDS if name in row), None)
    asked: Item = {}
    if chat is not None and row.get("question") is None:
        messages = messages_of(chat, where)
        if messages[-1]["role"] == "assistant":
            row = {"answer": messages.pop()["content"], **{k: v for k, v in row.items() if v is not None}}
        if not messages or messages[-1]["role"] not in _ASKING:
            raise EvaluationError(
                f"{where}: a conversation without a question",
                allowed="a conversation that ends with a message of the user or of a tool",
            )
        asked["messages"] = messages
    else:
        asked["prompt"] = f"Question: {_text(row, 'question', where)}\nAnswer:"
    return {"id": identifier, **asked, "answers": _answers(row, where, table=table)}


def _answers(row: dict[str, Any], where: str, *, table: bool) -> list[str]:
    value = row.get("answers", row.get("answer"))
    answers = [value] if isinstance(value, str) else value
    aliases = row.get("aliases", [])
    aliases = [aliases] if table and isinstance(aliases, str) else aliases
    if answers is None:
        raise EvaluationError(f"{where}: the row has no answer", allowed="a text, or a list of texts", do=_hint(row))
    for name, value in (("answer", answers), ("aliases", aliases)):
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            raise EvaluationError(f"{where}: {name}={value!r}", allowed="a text, or a list of texts", do=_hint(row))
    if not answers:
        raise EvaluationError(f"{where}: the list of answers is empty", do="Give at least one right answer")
    gold = [*answers, *aliases]
    for text in gold:
        if not can_match(text):
            raise EvaluationError(
                f"{where}: no answer can ever match {text!r}", allowed="a text with visible characters"
            )
    return gold


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if value is None:
        raise EvaluationError(f"{where}: the row has no {key}", allowed="a text", do=_hint(row))
    if not isinstance(value, str) or not value.strip():
        raise EvaluationError(f"{where}: {key}={value!r}", allowed="a text", do=_hint(row))
    return value


def _hint(row: dict[str, Any]) -> str | None:
    """Returns a hint that lists the row's unknown fields, which may be misnamed; None if there are none."""
    others = [name for name in row if name not in _KNOWN]
    return f"Rename the fields to question and answer; the row has {', '.join(others)}" if others else None


def _in_conversation(item: Item, references: Mapping[str, str], chat: Chat) -> Item:
    return {**item, "prompt": chat(item["messages"])} if "messages" in item else item


def _asked(item: Item) -> str:
    if "prompt" in item:
        return str(item["prompt"])
    return "\n".join(message["content"] for message in item["messages"])
