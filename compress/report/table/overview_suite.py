"""What an evaluation found, as cells and remarks of an overview. Rows have five cells, or three without a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.report import formatting
from compress.report.formatting import percent, perplexity, signed

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult, FamilyComparison, FamilyResult

Cells = tuple[str, ...]
NOTHING = "–"
_OWN = "agreement"  # the metric that compares a model's answers with those of another one, or with its own


def alone(evaluation: EvalResult, *, metrics: bool) -> tuple[tuple[Cells, ...], ...]:
    """Returns the sections of an evaluation without a baseline: name, score, items. `metrics` of families, too."""
    rows: list[Cells] = []
    for family in evaluation.families.values():
        rows.append((label(family.name), percent(family.score), f"{len(family.items):,}"))
        if metrics:
            rows += [(f"  {label(name)}", formatting.metric(name, value), "") for name, value in _beside(family)]
    return ((("perplexity", perplexity(evaluation.text.perplexity), ""),), tuple(rows))


def paired(evaluation: EvalResult, *, metrics: bool) -> tuple[tuple[Cells, ...], ...]:
    """Returns the sections of an evaluation with its comparison: name, dense, model, difference, lost/gained."""
    assert evaluation.comparison is not None, "families are compared with a baseline"
    rows: list[Cells] = []
    for one in evaluation.comparison.families.values():
        rows.append(_family(one))
        if metrics and evaluation.baseline is not None:
            before = evaluation.baseline.families[one.name].metrics
            rows += [_metric(one, name, before[name], value) for name, value in _beside(evaluation.families[one.name])]
    return tuple(section for section in (_text(evaluation), tuple(rows), _judged(evaluation)) if section)


def difference(evaluation: EvalResult) -> str:
    """Returns the name of the column of differences."""
    assert evaluation.comparison is not None, "a difference needs a baseline"
    return f"difference [{100 * evaluation.comparison.confidence:.0f} %]"


def remarks(evaluation: EvalResult) -> list[str]:
    """Returns what belongs below the table: how much was asked, what was left out, who judged."""
    families = evaluation.families.values()
    items, left_out = sum(len(family.items) for family in families), sum(family.left_out for family in families)
    too_long = f" ({left_out:,} left out as too long)" if left_out else ""
    about = "over the same items; " if evaluation.comparison is not None else ""
    what = "differences in points " if evaluation.comparison is not None else ""
    kl = " and KL (nats)" if evaluation.divergence is not None else ""
    tier = f", tier {evaluation.settings['tier']}" if evaluation.settings.get("tier") else ""
    told = [
        f"{evaluation.suite['name']}{tier}: {items:,} items{too_long}, {what}{about}perplexity{kl} over "
        f"{evaluation.text.tokens:,} held-out tokens"
    ]
    if evaluation.comparison is None:
        told += [
            f"{label(family.name)}: agreement with its own answers, so no score; give --baseline"
            for family in families
            if family.primary == _OWN
        ]
    if (found := evaluation.judgement) is not None:
        told.append(
            f"judge {found.judge}: {len(found.items):,} answers, in both orders, with the same verdict twice for "
            f"{percent(found.consistent)}"
        )
    return [*told, *(f"warning: {warning}" for warning in evaluation.warnings)]


def label(name: str) -> str:
    """Returns a family's or a metric's name as people write it."""
    return name.replace("_", " ")


def _beside(family: FamilyResult) -> list[tuple[str, float]]:
    """The metrics of a family beside its outcome."""
    return [(name, value) for name, value in family.metrics.items() if name != family.primary]


def _text(evaluation: EvalResult) -> tuple[Cells, ...]:
    baseline, found = evaluation.baseline, evaluation.text.perplexity
    before = NOTHING if baseline is None else perplexity(baseline.text.perplexity)
    change = "" if baseline is None else formatting.growth(found / baseline.text.perplexity)
    rows: list[Cells] = [("perplexity", before, perplexity(found), change, "")]
    if kl := evaluation.divergence:
        rows += [
            ("KL to dense, mean", NOTHING, f"{kl.mean:.4f}", f"[{kl.low:.4f}, {kl.high:.4f}]", ""),
            ("KL to dense, p99", NOTHING, f"{kl.p99:.3f}", "", ""),
            ("same top-1 token", NOTHING, percent(kl.same_top1), "", ""),
        ]
    return tuple(rows)


def _family(one: FamilyComparison) -> Cells:
    return (
        label(one.name),
        percent(one.dense),
        percent(one.compressed),
        f"{signed(100 * one.difference)} [{signed(100 * one.low)}, {signed(100 * one.high)}]",
        f"{one.lost}/{one.gained}",
    )


def _metric(one: FamilyComparison, name: str, before: float, after: float) -> Cells:
    change = formatting.metric_change(name, after - before, one.metric_intervals.get(name))
    return (f"  {label(name)}", formatting.metric(name, before), formatting.metric(name, after), change, "")


def _judged(evaluation: EvalResult) -> tuple[Cells, ...]:
    found = evaluation.judgement
    return () if found is None else (("judged wins", NOTHING, percent(found.score), "50 % is a draw", ""),)
