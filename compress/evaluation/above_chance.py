"""Tests whether a model answers a family of questions better than by guessing, which is needed to see it get worse."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from compress.evaluation.result import FamilyResult

CONFIDENCE = 0.95


def cannot_tell(dense: FamilyResult, confidence: float = CONFIDENCE) -> str | None:
    """Returns why the family shows nothing about a loss; None if the dense model is above chance.

    One-sided test of "the score is that of guessing" at level 1 − `confidence`. Binary outcomes: the exact binomial
    limit (Clopper-Pearson) must be above chance, with counts divided by the design effect where items share clusters.
    Items with different numbers of choices have different chances; the binomial of their mean has the larger variance
    (W. Hoeffding, Annals of Mathematical Statistics 27 (1956) 713-721), so the test stays valid. Other outcomes: the
    normal limit of the mean, with the standard error over clusters.
    """
    if lower_limit(dense, confidence) > dense.chance:
        return None
    return (
        f"the dense model is not above chance ({100 * dense.score:.1f} %, guessing scores {100 * dense.chance:.1f} %), "
        "so a loss could not be seen"
    )


def lower_limit(family: FamilyResult, confidence: float = CONFIDENCE) -> float:
    """Returns the one-sided lower limit of the family's true score."""
    values_N = np.array([item.outcome for item in family.items], dtype=np.float64)
    count, score = len(values_N), float(values_N.mean())
    error, independent = _error(family, clustered=True), _error(family, clustered=False)
    if family.kind != "binary":
        return score - NormalDist().inv_cdf(confidence) * error
    if score == 0.0:
        return 0.0
    from scipy.special import betaincinv

    effect = max(1.0, (error / independent) ** 2) if independent > 0 else 1.0
    right = float(values_N.sum())
    return float(betaincinv(right / effect, (count - right) / effect + 1, 1 - confidence))


def _error(family: FamilyResult, *, clustered: bool) -> float:
    """Returns the standard error of the mean outcome, linearised over clusters; 0 for a single item."""
    mean, totals, sizes = family.score, dict[str, float](), dict[str, int]()
    for item in family.items:
        unit = f"cluster {item.cluster}" if clustered and item.cluster is not None else f"item {item.id}"
        totals[unit] = totals.get(unit, 0.0) + item.outcome
        sizes[unit] = sizes.get(unit, 0) + 1
    units = len(totals)
    if units < 2:
        return 0.0
    residuals = np.array([totals[unit] - mean * sizes[unit] for unit in totals])
    return float(np.sqrt(units / (units - 1) * (residuals**2).sum()) / len(family.items))
