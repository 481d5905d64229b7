"""Chooses one candidate per set with the least sum of losses whose sizes stay within a budget, exactly.

This is a multiple-choice knapsack, solved as an integer program by HiGHS (scipy). S sets, C candidates of one set.
"""

from __future__ import annotations

import math

import numpy as np

_SPAN = 1e6
"""Losses are scaled so that the greatest is this: the tolerances of HiGHS are absolute, about 1e-6."""


def choose(sizes: list[list[int]], losses: list[list[float]], budget: int) -> list[int] | None:
    """Returns the index of the chosen candidate of every set, or None when even the smallest ones exceed the budget.

    Args:
        sizes: whole numbers, one per candidate of every set.
        losses: loss of each candidate; 0 or more.
        budget: greatest sum of the sizes.

    A candidate is never chosen when a smaller one of its set has no greater loss, so a set whose losses are all equal
    gets its smallest.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp  # 0.4 s, and most runs have no budget
    from scipy.sparse import csr_matrix

    places = [_worthwhile(*pair) for pair in zip(sizes, losses, strict=True)]
    room = budget - sum(min(row) for row in sizes)
    if room < 0:
        return None
    owner = np.repeat(np.arange(len(places)), [len(row) for row in places])
    # sizes beyond the smallest of the set, in their greatest common unit: small numbers, which floats hold exactly
    more = [sizes[s][c] - min(sizes[s]) for s, row in enumerate(places) for c in row]
    unit = math.gcd(*more) or 1
    size = np.array([extra // unit for extra in more], dtype=float)
    loss = np.array([losses[s][c] for s, row in enumerate(places) for c in row], dtype=float)
    one_of_each = csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))))
    starts = np.searchsorted(owner, np.arange(len(places)))
    limit = room // unit
    while True:
        solution = milp(
            loss * (_SPAN / (loss.max() or 1.0)),
            integrality=np.ones(len(owner)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_of_each, 1, 1),
                LinearConstraint(size[None], -np.inf, limit),
            ],
            options={"mip_rel_gap": 0.0},
        )
        assert solution.x is not None, solution.message
        chosen = [int(part.argmax()) for part in np.split(solution.x, starts[1:])]
        taken = [row[place] for row, place in zip(places, chosen, strict=True)]
        excess = sum(row[c] for row, c in zip(sizes, taken, strict=True)) - budget
        if excess <= 0:
            return taken
        limit -= -(-excess // unit)  # HiGHS keeps constraints within a tolerance; the budget has none: solve again


def _worthwhile(sizes: list[int], losses: list[float]) -> list[int]:
    """Returns the candidates with less loss than every smaller one, by rising size."""
    kept: list[int] = []
    for place in sorted(range(len(sizes)), key=lambda c: (sizes[c], losses[c])):
        if not kept or losses[place] < losses[kept[-1]]:
            kept.append(place)
    return kept
