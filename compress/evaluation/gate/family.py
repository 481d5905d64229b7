"""Judges one family: pass if the lower bound is above −margin, fail if the upper bound is below −margin."""

from __future__ import annotations

from collections.abc import Sequence

from compress.errors import EvaluationError, counted
from compress.evaluation.above_chance import cannot_tell
from compress.evaluation.gate.bounds import Bounds, binary_bounds, continuous_bounds, items_needed, least_items, units
from compress.evaluation.gate.result import FamilyVerdict, Verdict
from compress.evaluation.gate.settings import GateSettings
from compress.evaluation.pairing import pairs
from compress.evaluation.result import FamilyResult, ItemOutcome, recovery
from compress.evaluation.stats import mcnemar_mid_p

EMPTY = "empty"
"""Name of the metric that is 1 for an empty answer."""
_TOLERANCE = 1e-12  # a bound this close to the margin differs from it by rounding only


def judge(
    dense: FamilyResult,
    candidate: FamilyResult,
    settings: GateSettings,
    *,
    judged: bool,
    limit: int | None = None,
) -> FamilyVerdict:
    """Returns the verdict on `candidate`; with `judged=False` the verdict is `reported`.

    `limit` is the number of items per family that were asked for; None: all of the suite.

    Raises EvaluationError if the items cannot be paired, or if a binary family has outcomes other than 0 and 1. The
    caller ensures that all outcomes are finite and that the dense model reaches its floor (`check_floors`).
    """
    paired = pairs(dense, candidate)
    differences = [after.outcome - before.outcome for before, after in paired]
    unit_N = units([before.cluster for before, _ in paired])
    binary = dense.kind == "binary"
    if binary:
        for family in (dense, candidate):
            _check_binary(family)
        bounds = binary_bounds(differences, unit_N, settings.confidence)
    else:
        bounds = continuous_bounds(differences, unit_N, settings.confidence)
    margin = settings.margin_of(dense.name, len(paired)) if judged else None
    empty = _empty([before for before, _ in paired]), _empty([after for _, after in paired])
    both_empty = (empty[0], empty[1]) if empty[0] is not None and empty[1] is not None else None
    verdict, reason, needed = _verdict(bounds, margin, len(paired), both_empty, settings, limit)
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
        mcnemar_p=mcnemar_mid_p(lost, gained) if binary else None,
        recovery=recovery(dense, candidate),
        floor=floor_of(dense, settings) if judged else None,
        empty=both_empty,
        items_needed=needed,
    )


def _verdict(
    bounds: Bounds,
    margin: float | None,
    n: int,
    empty: tuple[float, float] | None,
    settings: GateSettings,
    limit: int | None,
) -> tuple[Verdict, str, int | None]:
    if margin is None:
        return "reported", "shown, not judged", None
    points, are = (f"{100 * margin:g} points", "are") if round(100 * margin, 9) != 1 else ("1 point", "is")
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
    needed = items_needed(bounds, margin, n, settings.confidence)
    least = least_items(margin, settings.confidence)
    if n < least:
        few = f"{counted(n, 'item')} cannot show that no more than {points} {are} lost, not even if nothing is lost"
        return "inconclusive", f"{few}: that takes {least:,}", needed
    leave = "item leaves" if n == 1 else "items leave"
    return (
        "inconclusive",
        f"{n:,} {leave} open whether more than {points} {are} lost; {_cure(needed, n, limit)}",
        needed,
    )


def _cure(needed: int | None, n: int, limit: int | None) -> str:
    """Returns how many items would tell, and where they could come from: `limit` left some of the suite out, or not."""
    if needed is None:
        return "no number of items would tell: the loss that was measured is as large as the margin"
    if limit is None or n < limit:
        return f"about {_round(needed):,} items would tell, more than the suite has: tolerate more with --margin"
    return f"about {_round(needed):,} items would tell: ask more with --limit or --tier"


def _round(number: int) -> int:
    """Rounds up to two significant digits: the estimate is no more precise than that."""
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


def floor_of(dense: FamilyResult, settings: GateSettings) -> float:
    """Returns the lowest allowed score of the dense model, 0 to 1: the setting, else chance plus the margin."""
    floor = settings.floor.get(dense.name)
    return dense.chance + settings.margin_of(dense.name, len(dense.items)) if floor is None else floor / 100


def unmeasurable(dense: FamilyResult, settings: GateSettings) -> str | None:
    """Returns why the family cannot show a loss of the margin; None if it can, or if its floor was set by the user.

    The dense model must be above chance (`above_chance`), and by at least the margin: else a candidate that forgot
    everything would lose less than the margin.
    """
    if dense.name in settings.floor:
        return None
    if (reason := cannot_tell(dense, settings.confidence)) is not None:
        return reason
    if dense.score < floor_of(dense, settings) - _TOLERANCE:
        return (
            f"the dense model scores {100 * dense.score:.1f} %, guessing {100 * dense.chance:.1f} %: a model that "
            f"forgot everything would lose less than {100 * settings.margin_of(dense.name, len(dense.items)):g} points"
        )
    return None


def check_floors(dense: Sequence[FamilyResult], settings: GateSettings) -> None:
    """Raises EvaluationError that lists the families in which the dense model scores too low.

    These are the families below a floor that the user set, or all families if none can show a loss.
    """
    below = [family for family in dense if family.score < floor_of(family, settings) - _TOLERANCE]
    low = [family for family in below if family.name in settings.floor]
    if not low and dense and all(unmeasurable(family, settings) for family in dense):
        low = list(dense)
    if low:
        scores = "; ".join(
            f"{family.name} {100 * family.score:.1f}, below its floor of {100 * floor_of(family, settings):.1f} "
            f"(guessing scores {100 * family.chance:.1f})"
            for family in low
        )
        flags = " ".join(f"--report-only {family.name}" for family in low)
        raise EvaluationError(
            f"the dense model scores too low for a loss to be measured: {scores}",
            do=f"Use a suite that the dense model can answer, or report these families without judging them: {flags}",
        )


def _empty(items: list[ItemOutcome]) -> float | None:
    """Returns the share of empty answers, 0 to 1; None if the family does not count them."""
    if not all(EMPTY in item.metrics for item in items):
        return None
    return sum(item.metrics[EMPTY] for item in items) / len(items)
