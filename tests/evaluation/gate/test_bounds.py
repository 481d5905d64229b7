"""How often the gate is wrong: by exact enumeration for outcomes of 0 and 1, by simulation for the others.

Shape letters: L losses, G gains (all tables of a sample), S samples.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.special import gammaln, xlogy
from scipy.stats import beta, norm

from compress.evaluation import stats
from compress.evaluation.gate import bounds as gate_bounds
from compress.evaluation.gate.bounds import binary_bounds, continuous_bounds, items_needed, least_items

Z = float(norm.ppf(0.95))
AT_MOST = 0.055
CHURNS = (0.0, 3e-4, 1e-3, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.4)
"""Share of the items that change beside those that are lost on balance."""


def verdicts(lost: np.ndarray, gained: np.ndarray, n: int, margin: float) -> np.ndarray:
    """1 pass, −1 fail, 0 inconclusive, by the test that `guarded_bounds` inverts; agreement with it is tested below."""
    score = stats.tango_score(lost, gained, n, -margin)
    count, where = np.unique(lost, return_inverse=True)
    most = np.where(count < n, beta.ppf(0.95, count + 1, np.maximum(n - count, 1)), 1.0)[where]
    least = np.where(count > 0, beta.ppf(0.05, np.maximum(count, 1), n - count + 1), 0.0)[where]
    passed = (score >= Z) & (most - gained / n <= margin) & (1 - 0.05 ** (1 / n) <= margin)
    failed = (score <= -Z) & (least - gained / n > margin)
    return passed.astype(int) - failed.astype(int)


def rates(n: int, margin: float, loses: float, gains: float) -> tuple[float, float]:
    """P(pass) and P(fail) for a candidate with these rates: every table, but for those of a probability below 1e-10."""

    def span(rate: float) -> np.ndarray:
        spread = 6.5 * np.sqrt(n * rate * (1 - rate)) + 8
        return np.arange(max(0, int(n * rate - spread)), min(n, int(n * rate + spread)) + 1)

    lost, gained = (table.ravel() for table in np.meshgrid(span(loses), span(gains), indexing="ij"))
    lost, gained = lost[lost + gained <= n], gained[lost + gained <= n]
    same = n - lost - gained
    ways = gammaln(n + 1) - gammaln(lost + 1) - gammaln(gained + 1) - gammaln(same + 1)
    likely = np.exp(ways + xlogy(lost, loses) + xlogy(gained, gains) + xlogy(same, 1 - loses - gains))
    assert likely.sum() == pytest.approx(1, abs=1e-6)
    found = verdicts(lost, gained, n, margin)
    return float(likely[found == 1].sum()), float(likely[found == -1].sum())


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("n", [80, 87, 90, 104, 120, 136, 160, 200, 270, 300, 450, 700, 1000, 1500, 2000, 4000, 14_042])
def test_a_candidate_that_lost_the_margin_passes_in_one_of_twenty_at_most(n: int, margin: float) -> None:
    found = [rates(n, margin, margin + churn / 2, churn / 2) for churn in CHURNS]
    assert max(passes for passes, _ in found) <= AT_MOST
    if n * margin >= 4:  # below, two lost items already show more than the margin
        assert max(fails for _, fails in found) <= 0.066


def test_tango_alone_would_pass_more_than_that() -> None:
    """Why the bounds are guarded: 270 items, margin 1, no gains: nothing lost is 6.6 % likely, and Tango passes it."""
    assert stats.tango_bounds(0, 0, 270)[0] > -0.01
    assert 0.99**270 > 0.066
    assert stats.guarded_bounds(0, 0, 270)[0] < -0.01


@pytest.mark.parametrize("n", [5, 40, 87, 400])
def test_the_bounds_give_the_verdicts_that_are_enumerated(n: int) -> None:
    for margin in (0.02, 0.05, 0.2):
        for lost in range(0, min(n, 40), 3):
            for gained in range(0, min(n - lost, 30), 4):
                low, high = stats.guarded_bounds(lost, gained, n)
                assert (low >= -margin) - (high < -margin) == verdicts(np.array([lost]), np.array([gained]), n, margin)[
                    0
                ]
                assert -1 <= low <= (gained - lost) / n <= high <= 1


@pytest.mark.parametrize(
    ("n", "churn", "margin", "power"),
    [(80, 0.10, 0.05, 0.37), (300, 0.10, 0.05, 0.84), (1000, 0.10, 0.02, 0.63), (2000, 0.10, 0.02, 0.87),
     (4000, 0.06, 0.01, 0.82), (14_042, 0.08, 0.01, 0.99)],
)  # fmt: skip
def test_a_model_that_is_as_good_passes_where_n_allows(n: int, churn: float, margin: float, power: float) -> None:
    passes, fails = rates(n, margin, churn / 2, churn / 2)
    assert passes >= power
    assert fails < 0.002


@pytest.mark.parametrize("churn", [0.06, 0.1, 0.2])
def test_five_points_lost_of_2000_never_pass_and_nearly_always_fail(churn: float) -> None:
    passes, fails = rates(2000, 0.02, (churn + 0.05) / 2, (churn - 0.05) / 2)
    assert passes < 1e-4
    assert fails > 0.9


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.02, 0.05, 0.1])
def test_the_least_number_of_items_is_the_least(margin: float) -> None:
    least = least_items(margin, 0.95)
    assert stats.guarded_bounds(0, 0, least)[0] >= -margin
    assert stats.guarded_bounds(0, 0, least - 1)[0] < -margin


@pytest.mark.parametrize(
    ("loses", "gains", "margin"), [(0.05, 0.05, 0.05), (0.05, 0.03, 0.05), (0.10, 0.04, 0.03), (0.02, 0.01, 0.05)]
)
def test_the_items_that_are_asked_for_settle_the_verdict(loses: float, gains: float, margin: float) -> None:
    n = 2000
    shown = np.repeat([-1.0, 1.0, 0.0], [round(loses * n), round(gains * n), n - round((loses + gains) * n)])
    needed = items_needed(binary_bounds(shown, None, 0.95), margin, 1, 0.95)
    assert needed is not None
    settled = max(rates(needed, margin, loses, gains))
    assert 0.74 <= settled <= 0.9
    assert items_needed(binary_bounds(np.repeat([-1.0, 0.0], [100, 1900]), None, 0.95), 0.05, 2000, 0.95) is None


@cache
def losses(kind: str, n: int, samples: int, margin: float) -> np.ndarray:
    """Differences of a candidate that lost exactly the margin, (S, N)."""
    rng = np.random.default_rng(11)
    size = (samples, n)
    if kind == "rare and whole":
        return -(rng.random(size) < margin).astype(float)
    if kind == "halves":
        return -0.5 * (rng.random(size) < 2 * margin)
    if kind == "skewed":
        return -margin + 0.2 * (1 - rng.exponential(size=size))
    if kind == "normal":
        return rng.normal(-margin, 0.2, size=size)
    each = rng.choice([-1 / 3, 0.0, 1 / 3], p=[0.1 + 3 * margin, 0.8 - 3 * margin, 0.1], size=size)
    assert kind == "thirds"
    return each


@pytest.mark.parametrize("kind", ["rare and whole", "halves", "skewed", "normal", "thirds"])
@pytest.mark.parametrize(("n", "margin"), [(80, 0.05), (300, 0.05)])
def test_shares_that_lost_the_margin_seldom_pass(
    kind: str, n: int, margin: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_bounds, "RESAMPLES", 400)
    samples = 800
    low_S = [continuous_bounds(row, None, 0.95, seed=i).low for i, row in enumerate(losses(kind, n, samples, margin))]
    rate = float(np.mean(np.array(low_S) >= -margin))
    assert rate <= AT_MOST + 2 * np.sqrt(AT_MOST / samples)  # two standard errors of the simulation


def test_a_plain_percentile_bootstrap_would_pass_three_times_as_many() -> None:
    """Guards the test above: it tells a bad bound from a good one."""
    rng = np.random.default_rng(0)
    passed = []
    for row in losses("rare and whole", 80, 800, 0.05):
        means = rng.choice(row, size=(400, 80)).mean(axis=1)
        passed.append(np.quantile(means, 0.05) >= -0.05)
    assert np.mean(passed) > 0.12


def clustered(rng: np.random.Generator, clusters: int, each: int, margin: float, binary: bool) -> np.ndarray:
    """Differences that lost the margin on average and are much alike inside a cluster, (clusters · each,)."""
    common_U = np.repeat(rng.beta(0.4, 0.4 * (1 - margin) / margin, size=clusters), each)
    if binary:
        return -(rng.random(clusters * each) < common_U).astype(float)
    return -np.clip(common_U + rng.normal(0, 0.05, size=clusters * each), -1, 1)


@pytest.mark.parametrize("binary", [True, False])
def test_items_of_one_cluster_do_not_count_as_independent(binary: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_bounds, "RESAMPLES", 300)
    rng, margin = np.random.default_rng(5), 0.05
    unit_N = np.repeat(np.arange(100), 16)
    bounds = binary_bounds if binary else continuous_bounds
    together, apart = [], []
    for _ in range(400 if binary else 150):
        values_N = clustered(rng, 100, 16, margin, binary)
        together.append(bounds(values_N, unit_N, 0.95).low >= -margin)
        apart.append(bounds(values_N, None, 0.95).low >= -margin)
    assert np.mean(apart) > 0.11
    assert np.mean(together) <= 0.08


def test_clusters_of_one_item_are_none() -> None:
    assert gate_bounds.units(["a", "b", None]) is None
    assert gate_bounds.units([None, None]) is None
    made = gate_bounds.units(["a", None, "a", None, "b"])
    assert made is not None
    assert made.tolist() == [0, 1, 0, 2, 3]


def test_all_items_in_one_cluster_tell_nothing() -> None:
    for bounds in (binary_bounds, continuous_bounds):
        values_N = np.repeat([-1.0, 0.0, 1.0], [2, 96, 2])
        assert bounds(values_N, np.zeros(100, dtype=int), 0.95).low < bounds(values_N, None, 0.95).low


@pytest.mark.parametrize(("lost", "gained", "p"), [(0, 0, 1.0), (7, 7, 1.0), (14, 8, 0.2100), (5, 0, 0.03125)])
def test_mcnemar_mid_p(lost: int, gained: int, p: float) -> None:
    assert stats.mcnemar_mid_p(lost, gained) == pytest.approx(p, abs=5e-4)
    assert stats.mcnemar_mid_p(gained, lost) == pytest.approx(p, abs=5e-4)
