"""The items that a model lost against its baseline, worst first, with what was asked, expected and answered."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from compress.errors import EvaluationError
from compress.evaluation import suites

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult, ItemOutcome
    from compress.evaluation.suites.base import Ask, Item, Suite

Piece = tuple[str, bool]
"""Words, and whether they stand in this answer alone."""
_GOLD_SHOWN = 3
_CUE = re.compile(r"\n\w{1,20}:$")


def lost(evaluation: EvalResult, most: int) -> list[dict[str, Any]]:
    """Returns, for every family with items that scored below the baseline, the count and the `most` worst of them.

    An item has `id`, `question` (None where the suite is not at hand), `expected`, `dense`, `compressed` (answers as
    text), `before` and `after` (outcomes). The largest losses come first; of equal ones those with the worst margin
    where the family has one, then those that come first in the suite.
    """
    baseline = evaluation.baseline
    if baseline is None:
        return []
    known = _Questions(evaluation)
    found = []
    for name, family in evaluation.families.items():
        before = {item.id: item for item in baseline.families[name].items}
        pairs = [(before[item.id], item) for item in family.items if item.outcome < before[item.id].outcome]
        if not pairs:
            continue
        pairs.sort(key=_badness)
        items = [_told(name, *pair, known) for pair in pairs[:most]]
        found.append({"family": name, "lost": len(pairs), "of": len(family.items), "items": items})
    return found


def _badness(pair: tuple[ItemOutcome, ItemOutcome]) -> tuple[float, float]:
    dense, compressed = pair
    return compressed.outcome - dense.outcome, compressed.metrics.get("margin", 0.0)


def _told(family: str, dense: ItemOutcome, compressed: ItemOutcome, known: _Questions) -> dict[str, Any]:
    item, ask = known.of(family, dense.id)
    return {
        "id": dense.id,
        "question": None if item is None or ask is None else _question(str(item[ask.prompt])),
        "expected": None if item is None else _expected(item),
        "dense": _text(dense.answer, item, ask),
        "compressed": _text(compressed.answer, item, ask),
        "before": dense.outcome,
        "after": compressed.outcome,
    }


def _question(prompt: str) -> str:
    """What was asked, without the cue that ends a prompt (`Answer:`)."""
    return _CUE.sub("", prompt.strip())


def _expected(item: Item) -> str | None:
    """What counts as right, from the field that the item has for it."""
    if "choices" in item and "gold" in item:
        return str(item["choices"][item["gold"]]).strip()
    if "answers" in item:
        return " / ".join(str(answer) for answer in item["answers"][:_GOLD_SHOWN])
    return str(item["reference"]).strip() if "reference" in item else None


def _text(answer: str | int, item: Item | None, ask: Ask | None) -> str:
    """The answer as text: of a choice taken its words, or its number where they are not known."""
    if isinstance(answer, int):
        if item is None or ask is None or ask.kind != "choose":
            return f"choice {answer + 1}"
        return str(item[ask.target][answer]).strip()
    return answer.strip()


class _Questions:
    """The items of the suite that an evaluation was made with; none when it is not at hand or has changed since."""

    def __init__(self, evaluation: EvalResult) -> None:
        self._items: dict[tuple[str, str], Item] = {}
        self._asks: dict[str, Ask] = {}
        suite = _suite(evaluation.suite)
        for family in suite.families if suite else ():
            self._asks[family.name] = family.asks[0]
            self._items |= {(family.name, item["id"]): item for item in family.items}

    def of(self, family: str, item: str) -> tuple[Item | None, Ask | None]:
        return self._items.get((family, item)), self._asks.get(family)


def _suite(asked: Mapping[str, Any]) -> Suite | None:
    name = str(asked["name"])
    if name not in suites.names():
        return None
    try:
        found = suites.load(name)
    except EvaluationError:  # a suite that needs data which are not here
        return None
    return found if found.items_sha256 == asked["items_sha256"] else None


def marked(dense: str, compressed: str) -> tuple[list[Piece], list[Piece]]:
    """Returns both answers in pieces, word by word, each marked where the other answer differs."""
    before, after = dense.split(), compressed.split()
    left: list[Piece] = []
    right: list[Piece] = []
    for kind, a, b, c, d in SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        _add(left, before[a:b], kind != "equal")
        _add(right, after[c:d], kind != "equal")
    return left, right


def _add(pieces: list[Piece], words: Sequence[str], differs: bool) -> None:
    if words:
        pieces.append((" ".join(words), differs))
