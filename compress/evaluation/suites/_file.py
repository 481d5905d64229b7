"""A suite from a file: closed-book questions of one's own, for models that the bundled suite knows nothing about.

One JSON object per line. A question has `question` and `answer` (or `answers`), and may have `aliases` and `id`; a line
with `text` is a document for perplexity and divergence. Without such lines the questions with their answers are read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.errors import EvaluationError
from compress.evaluation.matching import contains, exact, f1, first_line
from compress.evaluation.suites.base import Ask, Family, Item, Suite
from compress.json_files import parse

VERSION = 1


def suite(path: Path) -> Suite:
    """Returns the suite of a file; a line that is no question is an EvaluationError with its number."""
    items: dict[str, Item] = {}
    documents: list[str] = []
    for number, row in _rows(path):
        if "text" in row:
            documents.append(_text(row, "text", path, number))
            continue
        item = _item(row, path, number)
        if item["id"] in items:
            raise EvaluationError(f"{path}, line {number}: the id {item['id']!r} stands there twice")
        items[item["id"]] = item
    if not items:
        raise EvaluationError(f"{path} has no question", do='Write lines such as {"question": "…", "answer": "…"}')
    asked = [f"{item['prompt']} {item['answers'][0]}\n" for item in items.values()]
    ask = Ask("answer", "answer", "prompt", _grade, max_tokens=32)
    family = Family("factoid", "contains", "binary", list(items.values()), (ask,))
    return Suite(path.stem, VERSION, (family,), lambda: documents or asked)


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"the suite {path} cannot be read: {error}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse(line)
        except ValueError as error:
            raise EvaluationError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise EvaluationError(f"{path}, line {number}: {type(row).__name__}", allowed="a JSON object")
        rows.append((number, row))
    return rows


def _item(row: dict[str, Any], path: Path, number: int) -> Item:
    given = row.get("answers", row.get("answer"))
    answers = [given] if isinstance(given, str) else given
    aliases = row.get("aliases", [])
    for name, value in (("answer", answers), ("aliases", aliases)):
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            raise EvaluationError(f"{path}, line {number}: {name}={value!r}", allowed="a text, or a list of texts")
    if not answers:
        raise EvaluationError(f"{path}, line {number}: no answer")
    question = _text(row, "question", path, number)
    identifier = str(row.get("id", f"line/{number}"))
    return {"id": identifier, "prompt": f"Question: {question}\nAnswer:", "answers": [*answers, *aliases]}


def _text(row: dict[str, Any], key: str, path: Path, number: int) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise EvaluationError(f"{path}, line {number}: {key}={value!r}", allowed="a text")
    return value


def _grade(item: Item, answer: str) -> dict[str, float]:
    gold = item["answers"]
    return {
        "contains": float(contains(answer, gold)),
        "exact": float(exact(answer, gold)),
        "f1": f1(answer, gold),
        "empty": float(not first_line(answer)),
    }
