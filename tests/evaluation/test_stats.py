"""Tango's interval against its closed form, a brute-force solution and its coverage; the bootstrap's coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from compress.evaluation.stats import bootstrap_interval, tango_interval, unchanged_interval

Z = float(norm.ppf(0.975))


@pytest.mark.parametrize("n", [1, 10, 400, 14_042])
def test_without_any_change_the_bounds_have_a_closed_form(n: int) -> None:
    bound = Z**2 / (n + Z**2)
    assert tango_interval(0, 0, n) == pytest.approx((-bound, bound), abs=1e-9)


def brute_force(lost: int, gained: int, n: int) -> tuple[float, float]:
    """The differences that the score test keeps, the nuisance rate maximised numerically at each."""

    def score(difference: float) -> float:
        def minus_log_likelihood(losses: float) -> float:
            gains = losses + difference
            parts = zip((lost, gained, n - lost - gained), (losses, gains, 1 - losses - gains), strict=True)
            return -sum(count * np.log(max(rate, 1e-300)) for count, rate in parts if count)

        bounds = (max(0.0, -difference), (1 - difference) / 2)
        found = minimize_scalar(minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12})
        spread = 2 * found.x + difference - difference**2
        return (gained - lost - n * difference) / np.sqrt(n * spread)

    def edge(low: float, high: float, level: float) -> float:
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > level else (low, middle)
        return low

    return edge(-1 + 1e-9, 1 - 1e-9, Z), edge(-1 + 1e-9, 1 - 1e-9, -Z)


@pytest.mark.parametrize(("lost", "gained", "n"), [(14, 8, 40), (1, 0, 30), (0, 5, 12), (3, 3, 8), (40, 11, 300)])
def test_the_bounds_are_those_of_the_score_test(lost: int, gained: int, n: int) -> None:
    assert tango_interval(lost, gained, n) == pytest.approx(brute_force(lost, gained, n), abs=1e-5)


def test_every_table_has_bounds_around_its_estimate() -> None:
    for n in range(1, 9):
        for lost in range(n + 1):
            for gained in range(n + 1 - lost):
                low, high = tango_interval(lost, gained, n)
                assert -1 <= low <= (gained - lost) / n <= high <= 1
                mirrored = tango_interval(gained, lost, n)
                assert (low, high) == pytest.approx((-mirrored[1], -mirrored[0]), abs=1e-7)


@pytest.mark.parametrize(("n", "loses", "gains"), [(80, 0.07, 0.03), (300, 0.02, 0.02)])
def test_tango_covers_the_truth(n: int, loses: float, gains: float) -> None:
    rng = np.random.default_rng(7)
    tables = rng.multinomial(n, [loses, gains, 1 - loses - gains], size=1500)
    bounds = [tango_interval(int(lost), int(gained), n) for lost, gained, _ in tables]
    covered = np.mean([low <= gains - loses <= high for low, high in bounds])
    assert 0.935 <= covered <= 0.97


def test_the_bootstrap_covers_the_truth() -> None:
    rng = np.random.default_rng(3)
    draws = rng.exponential(size=(300, 120)) - 1.0
    covered = np.mean([low <= 0 <= high for low, high in map(bootstrap_interval, draws)])
    assert 0.90 <= covered <= 0.98


def test_whole_windows_are_resampled() -> None:
    """Figures that agree inside a window tell less than as many independent ones."""
    rng = np.random.default_rng(0)
    window = rng.normal(size=20)
    low, high = bootstrap_interval(window * 50, np.full(20, 50.0))
    apart_low, apart_high = bootstrap_interval(np.repeat(window, 50))
    assert high - low > 4 * (apart_high - apart_low)


def test_the_bootstrap_is_seeded() -> None:
    values = np.arange(30.0)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)


@pytest.mark.parametrize("n", [10, 300, 4000])
def test_what_did_not_change_may_change_as_rarely_as_its_items_cannot_show(n: int) -> None:
    low, high = unchanged_interval(n)
    assert low == -high
    assert (1 - high) ** n == pytest.approx(0.025), "so likely is it to see no change at that rate"
