"""The verdict on one family: pass if the lower bound excludes a loss beyond the margin, fail if the upper shows one."""

from __future__ import annotations

from compress.errors import EvaluationError
from compress.evaluation import gate_bounds, tango
from compress.evaluation.gate_bounds import Bounds
from compress.evaluation.gate_result import FamilyVerdict, Verdict
from compress.evaluation.gate_settings import GateSettings
from compress.evaluation.pairing import pairs
from compress.evaluation.result import FamilyResult, ItemOutcome

EMPTY = "empty"
"""Metric that is 1 for an answer without words."""
_TOLERANCE = 1e-12  # a bound that is the margin but for rounding


def judge(dense: FamilyResult, candidate: FamilyResult, settings: GateSettings, *, judged: bool) -> FamilyVerdict:
    """Returns the verdict on `candidate`, or the figures alone unless `judged`.

    Raises EvaluationError when the items cannot be paired, for outcomes other than 0 and 1 in a binary family, and for
    a dense model below its floor. All outcomes must be finite.
    """
    paired = pairs(dense, candidate)
    differences = [after.outcome - before.outcome for before, after in paired]
    unit_N = gate_bounds.units([before.cluster for before, _ in paired])
    binary = dense.kind == "binary"
    if binary:
        for family in (dense, candidate):
            _check_binary(family)
        bounds = gate_bounds.binary_bounds(differences, unit_N, settings.confidence)
    else:
        bounds = gate_bounds.continuous_bounds(differences, unit_N, settings.confidence)
    margin = settings.margin_of(dense.name, len(paired)) if judged else None
    floor = settings.floor.get(dense.name, None if margin is None else 100 * (dense.chance + margin))
    if judged and floor is not None:
        _check_floor(dense, floor / 100)
    empty = _empty([before for before, _ in paired]), _empty([after for _, after in paired])
    both_empty = (empty[0], empty[1]) if empty[0] is not None and empty[1] is not None else None
    verdict, reason, needed = _verdict(bounds, margin, len(paired), both_empty, settings)
    lost, gained = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    return FamilyVerdict(
        name=dense.name,
        verdict=verdict,
        reason=reason,
        n=len(paired),
        clusters=None if unit_N is None else int(unit_N.max()) + 1,
        primary=dense.primary,
        dense=dense.score,
        candidate=candidate.score,
        difference=bounds.difference,
        low=bounds.low,
        high=bounds.high,
        method=bounds.method,
        margin=margin,
        lost=lost,
        gained=gained,
        answers_changed=sum(before.answer != after.answer for before, after in paired),
        mcnemar_p=tango.mcnemar_mid_p(lost, gained) if binary else None,
        recovery=_recovery(dense, candidate),
        floor=None if not judged or floor is None else floor / 100,
        empty=both_empty,
        items_needed=needed,
    )


def _verdict(
    bounds: Bounds, margin: float | None, n: int, empty: tuple[float, float] | None, settings: GateSettings
) -> tuple[Verdict, str, int | None]:
    if margin is None:
        return "reported", "shown, not judged", None
    points = f"{100 * margin:g} points"
    failures = []
    if empty is not None and empty[1] - empty[0] > settings.max_empty / 100 + _TOLERANCE:
        rise = f"{100 * empty[1]:.1f} % of the answers are empty, {100 * empty[0]:.1f} % of the dense model's"
        failures.append(f"{rise} (at most {settings.max_empty:g} points more are let pass)")
    if bounds.high < -margin - _TOLERANCE:
        failures.append(f"lost more than {points}: at least {-100 * bounds.high:.1f}, by the upper bound")
    if failures:
        return "fail", "; ".join(failures), None
    if bounds.low >= -margin - _TOLERANCE:
        return "pass", f"lost no more than {points}", None
    needed = gate_bounds.items_needed(bounds, margin, n, settings.confidence)
    least = gate_bounds.least_items(margin, settings.confidence)
    if n < least:
        wanted = f"{n} items cannot show that no more than {points} are lost, not even if nothing is: {least} could"
        return "inconclusive", wanted, needed
    cure = "no number of items would tell" if needed is None else f"about {_round(needed):,} items would tell"
    return "inconclusive", f"{n:,} items leave open whether more than {points} are lost; {cure}", needed


def _round(number: int) -> int:
    """Up to two digits: no more is known."""
    step = int(10 ** max(0, len(str(number)) - 2))
    return -(-number // step) * step


def _check_binary(family: FamilyResult) -> None:
    for item in family.items:
        if item.outcome not in (0.0, 1.0):
            raise EvaluationError(
                f"family {family.name!r}: outcome {item.outcome} of item {item.id!r}",
                allowed="0 and 1 in a binary family",
                do="Evaluate again",
            )


def _check_floor(dense: FamilyResult, floor: float) -> None:
    if dense.score < floor - _TOLERANCE:
        raise EvaluationError(
            f"family {dense.name!r}: the dense model scores {100 * dense.score:.1f}, below its floor of "
            f"{100 * floor:.1f} (guessing scores {100 * dense.chance:.1f}): what it does not know cannot be lost",
            do=f"Judge a suite that it can answer, or show this family without judging it: --report-only {dense.name}",
        )


def _empty(items: list[ItemOutcome]) -> float | None:
    """The share of empty answers; None where the family does not count them."""
    if not all(EMPTY in item.metrics for item in items):
        return None
    return sum(item.metrics[EMPTY] for item in items) / len(items)


def _recovery(dense: FamilyResult, candidate: FamilyResult) -> float | None:
    room = dense.score - dense.chance
    return (candidate.score - dense.chance) / room if room > _TOLERANCE else None
