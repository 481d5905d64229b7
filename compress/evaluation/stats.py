"""Computes intervals and bounds of paired differences: Tango's score for proportions, the bootstrap for other outcomes.

T. Tango, Statistics in Medicine 17 (1998) 891-908. Differences are (gained − lost) / n. Counts may be fractions: counts
of clustered items are divided by a design effect.
"""

from __future__ import annotations

from collections.abc import Callable
from math import copysign
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
_EDGE = 1e-12  # the score statistic has no value at a difference of exactly ±1
_FAR = 1e9  # stands for an infinite statistic, so that a root can be bracketed

Array = NDArray[np.float64]


def tango_interval(lost: int, gained: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the two-sided score interval of (gained − lost) / n for `n` pairs.

    `lost` and `gained` count the pairs whose outcome fell and rose. Each end is a one-sided bound of `tango_bounds` at
    (1 + confidence) / 2.
    """
    return tango_bounds(lost, gained, n, (1 + confidence) / 2)


def unchanged_interval(n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the interval of a mean difference if all `n` measured differences are zero.

    The bootstrap would give an interval of width zero. Instead the ends are the exact upper limit of the rate of an
    event that did not occur in `n` items (about 3.7 / n at 95 %), times the unit of the outcome.
    """
    rarest = 1 - ((1 - confidence) / 2) ** (1 / n)
    return -rarest, rarest


def bootstrap_interval(
    values: ArrayLike, weights: ArrayLike | None = None, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Returns the percentile interval of Σ values / Σ weights by resampling units; weights default to 1.

    Units are items for paired differences, and windows (sums and token counts) for text.
    """
    value_U = np.asarray(values, dtype=np.float64)
    weight_U = np.ones_like(value_U) if weights is None else np.asarray(weights, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means: list[NDArray[np.float64]] = []
    chunk = max(1, 2_000_000 // len(value_U))  # bounds the memory of the index table
    for start in range(0, RESAMPLES, chunk):
        picked = rng.integers(len(value_U), size=(min(chunk, RESAMPLES - start), len(value_U)))
        means.append(value_U[picked].sum(axis=1) / weight_U[picked].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def tango_score(lost: ArrayLike, gained: ArrayLike, n: ArrayLike, difference: ArrayLike) -> Array:
    """Returns Tango's score statistic for a true `difference`, elementwise; it decreases as `difference` grows.

    The rate of losses is its maximum-likelihood estimate at that difference. If rounding makes the variance zero, next
    to ±1, the result is ±1e9, or 0 if the estimate equals the difference.
    """
    lost, gained, n, difference = (np.asarray(value, dtype=np.float64) for value in (lost, gained, n, difference))
    distance = gained - lost - n * difference
    spread = n * tango_variance(lost, gained, n, difference)
    with np.errstate(divide="ignore", invalid="ignore"):
        score = distance / np.sqrt(spread)
    return np.asarray(np.where(spread > 0, score, np.sign(distance) * _FAR))


def tango_variance(lost: ArrayLike, gained: ArrayLike, n: ArrayLike, difference: ArrayLike) -> Array:
    """Returns the variance of one item's difference for a true `difference`, at the maximum-likelihood loss rate."""
    lost, gained, n, difference = (np.asarray(value, dtype=np.float64) for value in (lost, gained, n, difference))
    linear = (2 * n - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    rate = (np.sqrt(np.maximum(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    return np.asarray(2 * rate + difference * (1 - difference))


def tango_bounds(lost: float, gained: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the lower and the upper score bound, each one-sided at `confidence`.

    If no item changed, the bounds are ∓z²/(n + z²).
    """
    z = NormalDist().inv_cdf(confidence)
    estimate = (gained - lost) / n

    def above(difference: float) -> float:
        return float(tango_score(lost, gained, n, difference)) - z

    def below(difference: float) -> float:
        return float(tango_score(lost, gained, n, difference)) + z

    return _root(above, -1 + _EDGE, estimate), _root(below, estimate, 1 - _EDGE)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    if low >= high:  # the estimate itself is ±1
        return copysign(1.0, low)
    return float(brentq(function, low, high, xtol=1e-12))


def guarded_bounds(lost: float, gained: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Returns Tango's bounds, widened to the exact binomial limits if few items changed.

    With Tango's bounds alone, a model that loses exactly the margin and gains nothing would pass in up to 6.6 % of the
    cases instead of 5 % (at n · margin ≈ 2.7, by exact enumeration). So the lower bound is at most gained/n − U(lost),
    where U is the exact upper limit of the loss rate, and at most −U(0), about −3/n. The upper bound is at least
    gained/n − L(lost), where L is the exact lower limit. With many changed items Tango's bounds are the wider ones.
    """
    from scipy.special import betaincinv  # the quantiles of the beta distribution, without the import of scipy.stats

    low, high = tango_bounds(lost, gained, n, confidence)
    rarest = 1 - (1 - confidence) ** (1 / n)
    most = float(betaincinv(lost + 1, n - lost, confidence)) if lost < n else 1.0
    least = float(betaincinv(lost, n - lost + 1, 1 - confidence)) if lost > 0 else 0.0
    return max(-1.0, min(low, gained / n - most, -rarest)), min(1.0, max(high, gained / n - least))


def mcnemar_mid_p(lost: int, gained: int) -> float:
    """Returns the two-sided mid-p value of McNemar's test; 1.0 when nothing changed.

    M. Fagerland, S. Lydersen, P. Laake, BMC Medical Research Methodology 13 (2013) 91. It is reported but decides no
    verdict, because a difference that is not significant does not show that two models are equal.
    """
    from scipy.special import bdtr

    if lost == gained:
        return 1.0
    fewer, changed = min(lost, gained), lost + gained
    below = float(bdtr(fewer - 1, changed, 0.5)) if fewer else 0.0
    return below + float(bdtr(fewer, changed, 0.5))  # twice the tail, less the probability of the table itself
