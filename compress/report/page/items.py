"""Lists the items that a model lost against its baseline, worst first, with question, expected and given answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from compress.evaluation import suites

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult, ItemOutcome
    from compress.evaluation.suites.base import Item, Suite

Piece = tuple[str, bool]
"""Words, and whether the other answer lacks them."""
_GOLD_SHOWN = 3
_CUE = re.compile(r"\n\w{1,20}:$")


def lost(evaluation: EvalResult, most: int, data_dir: str | None = None) -> dict[str, Any] | None:
    """Returns the items that scored below the baseline: `families` and `missing`; None without a baseline.

    A family has `family`, `lost`, `of`, and its `most` worst `items`: `id`, `question`, `expected` (None if the suite
    cannot be read; `missing` says why), `dense`, `compressed` (answers as text), `before` and `after` (outcomes).
    The largest losses come first; equal ones by margin, worst first, then in the order of the suite.

    `data_dir` holds the public data of a suite that is made from them.
    """
    baseline = evaluation.baseline
    if baseline is None:
        return None
    questions = _Questions(evaluation, data_dir)
    families = []
    for name, family in evaluation.families.items():
        before = {item.id: item for item in baseline.families[name].items}
        pairs = [(before[item.id], item) for item in family.items if item.outcome < before[item.id].outcome]
        if not pairs:
            continue
        pairs.sort(key=_badness)
        items = [_item(name, *pair, questions) for pair in pairs[:most]]
        families.append({"family": name, "lost": len(pairs), "of": len(family.items), "items": items})
    return {"families": families, "missing": questions.missing}


def _badness(pair: tuple[ItemOutcome, ItemOutcome]) -> tuple[float, float]:
    dense, compressed = pair
    return compressed.outcome - dense.outcome, compressed.metrics.get("margin", 0.0)


def _item(family: str, dense: ItemOutcome, compressed: ItemOutcome, questions: _Questions) -> dict[str, Any]:
    item = questions.item(family, dense.id)
    return {
        "id": dense.id,
        "question": None if item is None else _question(item, questions.prompt(family, next(iter(dense.answers)))),
        "expected": None if item is None else _expected(item),
        "dense": _text(dense.answer, item),
        "compressed": _text(compressed.answer, item),
        "before": dense.outcome,
        "after": compressed.outcome,
    }


def _question(item: Item, prompt: str | None) -> str | None:
    """Returns the question, without the examples before it and without the cue at its end (`Answer:`)."""
    asked = next((item[key] for key in ("question", prompt, "turns") if key is not None and key in item), None)
    if isinstance(asked, list):
        asked = "\n\n".join(map(str, asked))
    return None if asked is None else _CUE.sub("", str(asked).strip())


def _expected(item: Item) -> str | None:
    """Returns the right answer, from the field of the item that has it."""
    if "choices" in item and "gold" in item:
        return str(item["choices"][item["gold"]]).strip()
    if "answers" in item:
        return " / ".join(str(answer) for answer in item["answers"][:_GOLD_SHOWN])
    return str(item["reference"]).strip() if "reference" in item else None


def _text(answer: str | int, item: Item | None) -> str:
    """Returns the answer as text: for a choice its words, or its number if they are not known."""
    if isinstance(answer, str):
        return answer.strip()
    return f"choice {answer + 1}" if item is None or "choices" not in item else str(item["choices"][answer]).strip()


class _Questions:
    """The items of the suite of an evaluation; `missing` says why they cannot be read."""

    def __init__(self, evaluation: EvalResult, data_dir: str | None) -> None:
        suite, self.missing = _suite(evaluation.suite, data_dir)
        families = suite.families if suite else ()
        self._items = {(family.name, str(item["id"])): item for family in families for item in family.items}
        self._prompts = {(family.name, ask.name): ask.prompt for family in families for ask in family.asks}

    def item(self, family: str, name: str) -> Item | None:
        return self._items.get((family, name))

    def prompt(self, family: str, ask: str) -> str | None:
        """Returns the key of the item under which the prompt of a question is."""
        return self._prompts.get((family, ask))


def _suite(asked: Mapping[str, Any], data_dir: str | None) -> tuple[Suite | None, str | None]:
    """Returns the suite if it has the same items as were asked, or None and the reason. Uses no network."""
    name = str(asked["name"])
    if name not in suites.names():
        return None, f"the suite {name} is not part of this package"
    public = bool(asked.get("sources"))
    if public and data_dir is None:
        return (
            None,
            f"the items of {name} are public data, which a run does not store; give their folder with --data-dir",
        )
    suite = suites.load(name, data_dir if public else None)
    if suite.items_sha256 != asked["items_sha256"]:
        return None, f"the items of {name} are not those that were asked in the evaluation"
    return suite, None


def marked(dense: str, compressed: str) -> tuple[list[Piece], list[Piece]]:
    """Returns both answers in pieces of words, each marked if the other answer differs there."""
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
