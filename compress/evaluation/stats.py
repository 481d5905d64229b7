"""Intervals of paired differences: Tango's score interval for two proportions, the bootstrap for the rest."""

from __future__ import annotations

from collections.abc import Callable
from math import copysign, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
_EDGE = 1e-12  # the score statistic has no value at a difference of exactly ±1
_FAR = 1e9


def tango_interval(lost: int, gained: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the score interval of (gained − lost) / n for `n` pairs, of which `lost` fell and `gained` rose.

    Tango, Statistics in Medicine 17 (1998) 891-908. Also holds without any change: then the bounds are
    ∓z²/(n + z²).
    """
    from scipy.stats import norm

    z = float(norm.ppf((1 + confidence) / 2))
    estimate = (gained - lost) / n

    def above(difference: float) -> float:
        return _score(difference, lost, gained, n) - z

    def below(difference: float) -> float:
        return _score(difference, lost, gained, n) + z

    return _root(above, -1 + _EDGE, estimate), _root(below, estimate, 1 - _EDGE)


def _score(difference: float, lost: int, gained: int, n: int) -> float:
    """Tango's statistic, falling in `difference`; the rate of losses is the likeliest one at that difference."""
    linear = (2 * n - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    rate = (sqrt(max(linear**2 - 8 * n * constant, 0.0)) - linear) / (4 * n)
    variance = n * (2 * rate + difference * (1 - difference))
    distance = gained - lost - n * difference
    if variance <= 0:  # by rounding, next to ±1
        return copysign(_FAR, distance) if distance else 0.0
    return distance / sqrt(variance)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    if low >= high:  # the estimate itself is ±1
        return max(-1.0, min(1.0, round(low)))
    return float(brentq(function, low, high, xtol=1e-12))


def bootstrap_interval(
    values: ArrayLike, weights: ArrayLike | None = None, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Returns the percentile interval of Σ values / Σ weights, whole units resampled; a weight is 1 when not given.

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
