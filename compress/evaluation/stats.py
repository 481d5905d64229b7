"""Intervals of paired differences: Tango's score interval for two proportions, the bootstrap for the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.evaluation import tango

RESAMPLES = 2000


def tango_interval(lost: int, gained: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the score interval of (gained − lost) / n for `n` pairs, of which `lost` fell and `gained` rose.

    Two-sided: each end is a one-sided bound of `tango` at (1 + confidence) / 2.
    """
    return tango.bounds(lost, gained, n, (1 + confidence) / 2)


def unchanged_interval(n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the interval of a mean difference of which `n` items show none at all.

    A resample of nothing is nothing; but a change by the whole unit of the outcome that is rarer than this does not
    show in `n` items (the exact upper limit of a rate with no case, some 3.7 / n).
    """
    rarest = 1 - ((1 - confidence) / 2) ** (1 / n)
    return -rarest, rarest


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
