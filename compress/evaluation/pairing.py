"""Pairs two results item by item (`compare`), and refuses results of different questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from compress.errors import EvaluationError, counted
from compress.evaluation.result import Comparison, EvalResult, FamilyComparison, FamilyResult, ItemOutcome
from compress.evaluation.stats import bootstrap_interval, tango_interval, unchanged_interval

BY_BLOCK = "by_block"
"""Setting of eval.json: whether the models were read block by block, without the families that they write."""


def compare(dense: EvalResult, compressed: EvalResult, confidence: float = 0.95) -> Comparison:
    """Returns the paired difference compressed − dense of every family, with its interval and the flipped items.

    Raises EvaluationError if the suites, the items or the prompts differ.
    """
    check_questions(dense, compressed)
    paired = {name: _family(dense.families[name], compressed.families[name], confidence) for name in dense.families}
    return Comparison(paired, confidence)


def check_questions(dense: EvalResult, compressed: EvalResult) -> None:
    """Raises EvaluationError unless both evaluations hold the same families of the same suite in the same form."""
    check_suites(dense.suite, compressed.suite)
    _check_chat(dense, compressed)
    if dense.families.keys() != compressed.families.keys():
        odd = sorted(dense.families.keys() ^ compressed.families.keys())
        raise EvaluationError(
            f"the two evaluations cannot be paired: they hold different families ({', '.join(odd)} in one only)",
            do="Evaluate both models with the same suite and tasks",
        )


def with_families_of(known: EvalResult, other: EvalResult) -> EvalResult:
    """Returns `known` without the families that `other` was not asked because it was read block by block."""
    if not other.settings.get(BY_BLOCK):
        return known
    return replace(known, families={name: known.families[name] for name in known.families if name in other.families})


def _check_chat(dense: EvalResult, compressed: EvalResult) -> None:
    """Raises EvaluationError if one model was asked through its chat template and the other was not."""
    before, after = (str(result.settings.get("chat", "never")) for result in (dense, compressed))
    if before != after:
        raise EvaluationError(
            f"the two evaluations cannot be paired: asked with chat {before!r} and {after!r}",
            do="Evaluate both models with the same --chat",
        )


def check_suites(dense: Mapping[str, Any], compressed: Mapping[str, Any]) -> None:
    """Raises EvaluationError unless both suites have the same name, version and items."""
    for key in ("name", "version", "items_sha256"):
        if dense[key] != compressed[key]:
            raise EvaluationError(
                f"the two evaluations cannot be paired: suite {key} {dense[key]!r} and {compressed[key]!r}",
                do="Evaluate both models with the same suite, data and version of this package",
            )


def pairs(dense: FamilyResult, compressed: FamilyResult) -> list[tuple[ItemOutcome, ItemOutcome]]:
    """Returns the dense and the compressed outcome of every item, in the order of `dense`.

    Raises EvaluationError if an item id is repeated or missing in one result, if prompts differ, or if the two results
    use different metrics.
    """
    if (dense.kind, dense.primary) != (compressed.kind, compressed.primary):
        raise EvaluationError(
            f"family {dense.name!r} cannot be paired: {dense.primary!r} ({dense.kind}) of one model, "
            f"{compressed.primary!r} ({compressed.kind}) of the other",
            do="Evaluate both models with the same version of this package",
        )
    before, after = (_by_id(family) for family in (dense, compressed))
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        raise EvaluationError(
            f"family {dense.name!r} cannot be paired: {counted(len(odd), 'item')} {'was' if len(odd) == 1 else 'were'} "
            f"asked of one model only, e.g. {odd[0]!r}",
            do="Evaluate both models with the same --limit",
        )
    if changed := [key for key in before if before[key].prompt_hash != after[key].prompt_hash]:
        raise EvaluationError(
            f"family {dense.name!r} cannot be paired: the prompts of {counted(len(changed), 'item')} differ, "
            f"e.g. of {changed[0]!r}",
            do="Evaluate both models with the same version of this package, the compressed one with --baseline",
        )
    return [(before[key], after[key]) for key in before]


def _by_id(family: FamilyResult) -> dict[str, ItemOutcome]:
    items = {item.id: item for item in family.items}
    if len(items) < len(family.items):
        twice = next(item.id for item in family.items if items[item.id] is not item)
        raise EvaluationError(f"family {family.name!r} cannot be paired: item id {twice!r} is repeated")
    return items


def _family(dense: FamilyResult, compressed: FamilyResult, confidence: float) -> FamilyComparison:
    paired = pairs(dense, compressed)
    differences = [after.outcome - before.outcome for before, after in paired]
    lost, gained = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    if dense.kind == "binary":
        low, high = tango_interval(lost, gained, len(differences), confidence)
    elif not any(differences):
        low, high = unchanged_interval(len(differences), confidence)
    else:
        low, high = bootstrap_interval(differences, confidence=confidence)
    dense_metrics, metrics = dense.metrics, compressed.metrics
    return FamilyComparison(
        name=dense.name,
        n=len(differences),
        dense=dense.score,
        compressed=compressed.score,
        difference=sum(differences) / len(differences),
        low=low,
        high=high,
        method="tango" if dense.kind == "binary" else "bootstrap",
        lost=lost,
        gained=gained,
        answers_changed=sum(before.answer != after.answer for before, after in paired),
        metrics={name: metrics[name] - dense_metrics[name] for name in metrics},
        metric_intervals={name: _interval(paired, name, confidence) for name in metrics},
    )


def _interval(paired: Sequence[tuple[ItemOutcome, ItemOutcome]], metric: str, confidence: float) -> tuple[float, float]:
    """Returns the bootstrap interval of a metric's mean difference; whole clusters are resampled."""
    sums: dict[str, float] = defaultdict(float)
    sizes: dict[str, int] = defaultdict(int)
    for before, after in paired:
        unit = f"item {before.id}" if before.cluster is None else f"cluster {before.cluster}"
        sums[unit] += after.metrics[metric] - before.metrics[metric]
        sizes[unit] += 1
    return bootstrap_interval(list(sums.values()), list(sizes.values()), confidence)
