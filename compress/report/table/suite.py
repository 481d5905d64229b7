"""Collects the results of an evaluation as cells of an overview, five in a row, or three without a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.evaluation.above_chance import cannot_tell
from compress.report import formatting
from compress.report.formatting import NOTHING, label, percent, perplexity

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult, FamilyComparison, FamilyResult

Cells = tuple[str, ...]
_OWN = "agreement"
"""The metric that compares a model's answers with those of the baseline; without one, with its own answers."""


_CHAT = {
    "never": "",
    "answers": " (answers through the chat template)",
    "always": " (all through the chat template)",
}


def alone(evaluation: EvalResult, *, metrics: bool) -> tuple[tuple[Cells, ...], ...]:
    """Returns the sections of an evaluation without a baseline: name, score, items; with `metrics`, all metrics."""
    rows: list[Cells] = []
    for family in evaluation.families.values():
        rows.append((label(family.name), percent(family.score), f"{len(family.items):,}"))
        if metrics:
            rows += [(f"  {label(name)}", formatting.metric(name, value), "") for name, value in _other_metrics(family)]
    return tuple(
        section for section in ((("perplexity", perplexity(evaluation.text.perplexity), ""),), tuple(rows)) if section
    )


def paired(evaluation: EvalResult, *, metrics: bool) -> tuple[tuple[Cells, ...], ...]:
    """Returns the sections of an evaluation with its comparison: name, dense, model, difference, lost/gained."""
    assert evaluation.comparison is not None, "families are compared with a baseline"
    rows: list[Cells] = []
    for comparison in evaluation.comparison.families.values():
        rows.append(_family(comparison))
        if metrics and evaluation.baseline is not None:
            before = evaluation.baseline.families[comparison.name].metrics
            family = evaluation.families[comparison.name]
            rows += [_metric(comparison, name, before[name], value) for name, value in _other_metrics(family)]
    return tuple(section for section in (_text(evaluation), tuple(rows), _judged(evaluation)) if section)


def difference_header(evaluation: EvalResult) -> str:
    """Returns the name of the column of differences."""
    assert evaluation.comparison is not None, "a difference needs a baseline"
    return f"difference [{100 * evaluation.comparison.confidence:.0f} %]"


def remarks(evaluation: EvalResult) -> list[str]:
    """Returns the lines below the table: number of items, items left out, the judge, warnings."""
    families = evaluation.families.values()
    items, left_out = sum(len(family.items) for family in families), sum(family.left_out for family in families)
    too_long = f" ({left_out:,} left out as too long)" if left_out else ""
    compared = evaluation.comparison is not None and bool(families)
    pairing = "differences in points over the same items; " if compared else ""
    kl = " and KL (nats)" if evaluation.divergence is not None else ""
    tier = f", tier {evaluation.settings['tier']}" if evaluation.settings.get("tier") else ""
    asked = f"{items:,} items{too_long}" if families else "no questions"
    lines = [
        f"{evaluation.suite['name']}{tier}: {asked}{_CHAT[evaluation.settings.get('chat', 'never')]}, {pairing}"
        f"perplexity{kl} over {evaluation.text.tokens:,} held-out tokens"
    ]
    if evaluation.comparison is None:
        lines += [
            f"{label(family.name)}: agreement with its own answers, so no score; give --baseline"
            for family in families
            if family.primary == _OWN
        ]
    if (dense := evaluation.baseline) is not None:
        reasons = {family.name: cannot_tell(family) for family in dense.families.values()}
        lines += [f"{label(name)} cannot tell: {reason}" for name, reason in reasons.items() if reason]
    if (judgement := evaluation.judgement) is not None:
        lines.append(
            f"judge {judgement.judge}: {len(judgement.items):,} answers, in both orders, with the same verdict twice "
            f"for {percent(judgement.consistent)}"
        )
    return [*lines, *(f"warning: {warning}" for warning in evaluation.warnings)]


def _other_metrics(family: FamilyResult) -> list[tuple[str, float]]:
    """Returns the metrics of a family except the one that is its score."""
    return [(name, value) for name, value in family.metrics.items() if name != family.primary]


def _text(evaluation: EvalResult) -> tuple[Cells, ...]:
    baseline, value = evaluation.baseline, evaluation.text.perplexity
    before = NOTHING if baseline is None else perplexity(baseline.text.perplexity)
    change = "" if baseline is None else formatting.growth(value / baseline.text.perplexity)
    rows: list[Cells] = [("perplexity", before, perplexity(value), change, "")]
    if kl := evaluation.divergence:
        rows += [
            ("KL to dense, mean", NOTHING, f"{kl.mean:.4f}", f"[{kl.low:.4f}, {kl.high:.4f}]", ""),
            ("KL to dense, p99", NOTHING, f"{kl.p99:.3f}", "", ""),
            ("same top-1 token", NOTHING, percent(kl.same_top1), "", ""),
        ]
    return tuple(rows)


def _family(comparison: FamilyComparison) -> Cells:
    return (
        label(comparison.name),
        percent(comparison.dense),
        percent(comparison.compressed),
        formatting.difference(comparison.difference, comparison.low, comparison.high),
        f"{comparison.lost}/{comparison.gained}",
    )


def _metric(comparison: FamilyComparison, name: str, before: float, after: float) -> Cells:
    change = formatting.metric_change(name, after - before, comparison.metric_intervals.get(name))
    return (f"  {label(name)}", formatting.metric(name, before), formatting.metric(name, after), change, "")


def _judged(evaluation: EvalResult) -> tuple[Cells, ...]:
    if evaluation.judgement is None:
        return ()
    return (("judged wins", NOTHING, percent(evaluation.judgement.score), "50 % is a draw", ""),)
