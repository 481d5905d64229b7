"""The exact choice against brute force."""

import itertools
import random
import subprocess
import sys

import pytest

from compress.stages.budget.knapsack import choose


def best(sizes, losses, budget):
    """The least sum of losses over all combinations that fit, or None."""
    fitting = (
        sum(loss[c] for loss, c in zip(losses, places, strict=True))
        for places in itertools.product(*(range(len(row)) for row in sizes))
        if sum(size[c] for size, c in zip(sizes, places, strict=True)) <= budget
    )
    return min(fitting, default=None)


@pytest.mark.parametrize("seed", range(40))
def test_it_is_exact(seed):
    rng = random.Random(seed)
    sets = rng.randint(1, 6)
    sizes = [[rng.randint(1, 10 ** rng.randint(1, 8)) for _ in range(rng.randint(1, 5))] for _ in range(sets)]
    losses = [[10 ** rng.uniform(-8, 0) for _ in row] for row in sizes]
    budget = int(rng.uniform(0.8, 1.2) * sum(rng.choice(row) for row in sizes))
    expected = best(sizes, losses, budget)
    taken = choose(sizes, losses, budget)
    if expected is None:
        assert taken is None
        return
    assert sum(row[c] for row, c in zip(sizes, taken, strict=True)) <= budget
    assert sum(row[c] for row, c in zip(losses, taken, strict=True)) == pytest.approx(expected, rel=1e-9)


def test_the_budget_is_kept_to_the_bit():
    sizes = [[10**8, 10**8 + 1]] * 3
    losses = [[1.0, 0.0]] * 3
    for budget, finer in ((3 * 10**8, 0), (3 * 10**8 + 1, 1), (3 * 10**8 + 3, 3)):
        assert sum(choose(sizes, losses, budget)) == finer


def test_what_gains_nothing_stays_small():
    assert choose([[2, 3, 4], [2, 3, 4]], [[0.0, 0.0, 0.0], [3.0, 2.0, 2.0]], 100) == [0, 1]


def test_many_sets_stay_exact_and_quick():
    rng = random.Random(1)
    sizes = [[weights * bits for bits in (2, 3, 4, 6, 8)] for weights in (rng.randint(1, 50) << 14 for _ in range(600))]
    losses = [[scale * 4.0**-bits for bits in (2, 3, 4, 6, 8)] for scale in (10 ** rng.uniform(-6, 0) for _ in sizes)]
    budget = int(3.3 * sum(row[0] / 2 for row in sizes))
    taken = choose(sizes, losses, budget)
    # a bound that no choice can beat: the Lagrangian at any price per bit
    assert sum(row[c] for row, c in zip(sizes, taken, strict=True)) <= budget
    found = sum(row[c] for row, c in zip(losses, taken, strict=True))
    prices = (10 ** (-exponent / 50) for exponent in range(200, 800))
    bound = max(
        sum(
            min(loss + price * size for loss, size in zip(*pair, strict=True))
            for pair in zip(losses, sizes, strict=True)
        )
        - price * budget
        for price in prices
    )
    assert bound <= found * (1 + 1e-9) and found <= bound * 1.01


def test_scipy_is_imported_only_where_there_is_a_budget():
    asked = "import sys, compress.stages.budget.knapsack; print([name for name in sys.modules if 'scipy' in name])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
