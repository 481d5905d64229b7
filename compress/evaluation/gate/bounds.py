"""Computes one-sided bounds of a paired difference, for binary and continuous outcomes, clustered or independent items.

Shape letters: N items, U units (clusters, or items that stand alone), R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf, log
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.evaluation.stats import guarded_bounds, tango_variance

RESAMPLES = 4000
POWER = 0.8
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Estimate and one-sided bounds of the true difference (candidate − dense, in units of the outcome)."""

    difference: float
    low: float
    """Lower bound, one-sided."""
    high: float
    """Upper bound, one-sided."""
    method: str
    """`tango` or `bootstrap`."""
    deviation: float
    """Standard deviation of one item's difference, corrected for the correlation within clusters: the standard error of
    the mean is this divided by √n."""
    counts: tuple[float, float, float] | None = None
    """Lost, gained and all items, divided by `effect`; None for continuous outcomes."""
    effect: float = 1.0
    """Design effect: the factor by which clusters raise the variance of the mean."""


def units(clusters: Sequence[str | None]) -> NDArray[np.intp] | None:
    """Returns the unit number of every item, (N,), or None when all items are independent."""
    if all(name is None for name in clusters):
        return None
    numbers: dict[str | tuple[int], int] = {}
    keys = [(index,) if name is None else name for index, name in enumerate(clusters)]
    unit_N = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    return None if len(numbers) == len(keys) else unit_N


def binary_bounds(difference_N: ArrayLike, unit_N: NDArray[np.intp] | None, confidence: float) -> Bounds:
    """Returns Tango's bounds for differences of −1, 0 and 1.

    For clustered items the counts are divided by the design effect (never below 1): J. Rao and A. Scott, Biometrics 48
    (1992) 577-585.
    """
    values_N = np.asarray(difference_N, dtype=np.float64)
    n = len(values_N)
    lost, gained = int((values_N < 0).sum()), int((values_N > 0).sum())
    apart, together = _error(values_N, None), _error(values_N, unit_N)
    effect = max(1.0, (together / apart) ** 2) if apart > 0 else 1.0
    if _single(unit_N):
        effect = float(n)
    counts = (lost / effect, gained / effect, n / effect)
    low, high = guarded_bounds(*counts, confidence)
    return Bounds(float(values_N.mean()), low, high, "tango", float(apart * np.sqrt(effect * n)), counts, effect)


def continuous_bounds(
    difference_N: ArrayLike, unit_N: NDArray[np.intp] | None, confidence: float, seed: int = 0
) -> Bounds:
    """Returns bounds of the mean by the studentised paired bootstrap, which resamples whole units.

    The bounds are at least as wide as those of the percentile bootstrap. The percentile bootstrap alone is not enough:
    its 95 % lower bound is above the truth in up to 16 % of small samples with rare losses (simulated in
    tests/evaluation/gate/test_bounds.py). The lower bound is also never above −U(0) (see `guarded_bounds`), because
    losses rarer than that can be absent from the sample.
    """
    values_N = np.asarray(difference_N, dtype=np.float64)
    sum_U, size_U = _sums(values_N, unit_N)
    mean = float(values_N.mean())
    error = _error(values_N, unit_N)
    rarest = 1 - (1 - confidence) ** (1 / (1 if _single(unit_N) else len(values_N)))
    if error == 0:
        return Bounds(mean, mean - rarest, mean + rarest, "bootstrap", 0.0)
    mean_R, error_R = _resampled(sum_U, size_U, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        t_R = np.sort(np.nan_to_num((mean_R - mean) / error_R, nan=0.0, posinf=inf, neginf=-inf))
    index = min(len(t_R), ceil(confidence * len(t_R))) - 1
    mean_R = np.sort(mean_R)
    low = min(mean - t_R[index] * error, mean_R[-1 - index], -rarest)
    high = max(mean - t_R[-1 - index] * error, mean_R[index])
    return Bounds(mean, float(low), float(high), "bootstrap", error * float(np.sqrt(len(values_N))))


def _single(unit_N: NDArray[np.intp] | None) -> bool:
    """Whether all items are in one cluster; they then count as one item."""
    return unit_N is not None and not unit_N.any()


def _sums(values_N: Array, unit_N: NDArray[np.intp] | None) -> tuple[Array, Array]:
    """Sums and sizes of the units."""
    if unit_N is None:
        return values_N, np.ones_like(values_N)
    return np.bincount(unit_N, values_N).astype(np.float64), np.bincount(unit_N).astype(np.float64)


def _error(values_N: Array, unit_N: NDArray[np.intp] | None) -> float:
    """Returns the standard error of the mean (linearised, as a ratio of sums); 0 for a single unit."""
    sum_U, size_U = _sums(values_N, unit_N)
    count = len(sum_U)
    if count < 2:
        return 0.0
    residual_U = sum_U - values_N.mean() * size_U
    return float(np.sqrt(count / (count - 1) * (residual_U**2).sum()) / len(values_N))


def _resampled(sum_U: Array, size_U: Array, seed: int) -> tuple[Array, Array]:
    """Means and standard errors of the resamples, both (R,)."""
    count = len(sum_U)
    rng = np.random.default_rng(seed)
    moments_U5 = np.stack([sum_U, size_U, sum_U**2, sum_U * size_U, size_U**2], axis=1)
    parts = []
    chunk = max(1, 4_000_000 // count)  # bounds the memory of the index table
    for start in range(0, RESAMPLES, chunk):
        rows = min(chunk, RESAMPLES - start)
        picked_RU = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        weight_RU = np.bincount(picked_RU.ravel(), minlength=rows * count).reshape(rows, count)
        parts.append(weight_RU.astype(np.float64) @ moments_U5)
    total, size, squares, products, sizes = np.concatenate(parts).T
    mean_R = total / size
    spread_R = np.maximum(squares - 2 * mean_R * products + mean_R**2 * sizes, 0.0)
    return mean_R, np.sqrt(count / (count - 1) * spread_R) / size


def items_needed(bounds: Bounds, margin: float, n: int, confidence: float) -> int | None:
    """Returns the number of items that would settle an inconclusive verdict with a power of 80 %.

    Assumes that the difference and its deviation stay as measured. The number is ((z · s₀ + z' · s) / (difference +
    margin))², where s is the measured deviation and s₀ the deviation of a candidate that lost exactly the margin; it is
    at least `least_items`. None if the difference equals the margin: then no number of items is enough.
    """
    distance = abs(bounds.difference + margin)
    if distance < 1e-9:
        return None
    at_margin = bounds.deviation
    if bounds.counts is not None:
        at_margin = float(np.sqrt(bounds.effect * tango_variance(*bounds.counts, -margin)))
    quantile = NormalDist().inv_cdf
    settled = (quantile(confidence) * at_margin + quantile(POWER) * bounds.deviation) / distance
    return max(n + 1, ceil(settled**2), least_items(margin, confidence))


def least_items(margin: float, confidence: float) -> int:
    """Returns the smallest number of items with which an unchanged model passes."""
    if margin >= 1:
        return 1
    square = NormalDist().inv_cdf(confidence) ** 2
    return ceil(max(square * (1 - margin) / margin, log(1 - confidence) / log(1 - margin)) - 1e-9)
