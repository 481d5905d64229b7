"""Lists items of an evaluation for the report: samples, and those lost against the baseline, worst first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from compress.evaluation import samples as picked
from compress.evaluation import suites

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult, ItemOutcome, Sample
    from compress.evaluation.suites.base import Suite

Piece = tuple[str, bool]
"""Words, and whether the other answer lacks them."""


def of_evaluation(
    evaluation: EvalResult, most: int, data_dir: str | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Returns the samples, and the items that scored below the baseline; none and None without a baseline.

    A sample has `family` (None for a prompt that is no item), `id`, `question`, `expected`, `dense` and `compressed`
    (answers as text). The lost items are `families` and `missing`: why questions are not shown, None if all are. A
    family has `family`, `lost`, `of`, and its `most` worst `items`, which also have the outcomes `before` and `after`.

    `data_dir` holds the public data of a suite that is made from them. Questions that the evaluation keeps need none.
    """
    if evaluation.baseline is None:
        return [], None
    suite, missing = _suite(evaluation.suite, data_dir)
    shown = picked.of_items(evaluation, suite, most)
    samples = [sample for sample in shown if sample.kind == picked.SAMPLE and sample.question is not None]
    free = [sample for sample in evaluation.samples if sample.family is None]
    by_name = {(sample.family, sample.id): sample for sample in shown if sample.kind == picked.LOST}
    families: list[dict[str, Any]] = []
    for name, family in evaluation.families.items():
        before = {item.id: item for item in evaluation.baseline.families[name].items}
        if pairs := picked.lost_pairs(family, before):
            items = [_lost(by_name[name, pair[1].id], *pair) for pair in pairs[:most]]
            families.append({"family": name, "lost": len(pairs), "of": len(family.items), "items": items})
    unknown = any(item["question"] is None for family in families for item in family["items"])
    return [_sample(sample) for sample in (*free, *samples)], {
        "families": families,
        "missing": missing if unknown else None,
    }


def _sample(sample: Sample) -> dict[str, Any]:
    keys = ("family", "id", "question", "expected", "dense", "compressed")
    return {key: getattr(sample, key) for key in keys}


def _lost(sample: Sample, dense: ItemOutcome, compressed: ItemOutcome) -> dict[str, Any]:
    keys = ("id", "question", "expected", "dense", "compressed")
    return {key: getattr(sample, key) for key in keys} | {"before": dense.outcome, "after": compressed.outcome}


def _suite(asked: Mapping[str, Any], data_dir: str | None) -> tuple[Suite | None, str | None]:
    """Returns the suite if it has the same items as were asked, or None and the reason. Uses no network."""
    name = str(asked["name"])
    if name not in suites.names():
        return None, f"the suite {name} is not part of this package"
    public = bool(asked.get("sources"))
    if public and data_dir is None:
        return (
            None,
            f"the items of {name} are public data, of which a run keeps only a few; give their folder with --data-dir",
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
