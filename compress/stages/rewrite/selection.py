"""Selects the units to remove: the least important ones, until a budget of parameters is met.

Shape letters: U units of one set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compress.errors import MethodError


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Sets of units that must lose equally many units each."""

    name: str
    scores: tuple[torch.Tensor, ...]
    """Scores [U] of the units of every set; all sets have equally many units."""
    parameters: int
    """Parameters that the model loses when every set loses one unit."""
    step: int = 1
    """Units are removed in multiples of this."""

    @property
    def units(self) -> int:
        """Units of each set."""
        return len(self.scores[0])

    @property
    def most(self) -> int:
        """Most units that a set may lose: at least one stays, and a multiple of `step` stays one."""
        return max(0, (self.units - 1) // self.step * self.step)

    def losses(self) -> list[float]:
        """Returns the summed scores of the 0, 1, 2 … least important units of all sets."""
        rising = sum(scores.double().sort().values for scores in self.scores)
        assert isinstance(rising, torch.Tensor)
        return [0.0, *rising.cumsum(0).tolist()]

    def least(self, count: int) -> list[torch.Tensor]:
        """Returns the `count` least important units of every set, int64, rising; among equal scores the first."""
        return [scores.sort(stable=True).indices[:count].sort().values for scores in self.scores]


def choose(groups: Sequence[Candidates], budget: int, *, by_score: bool) -> list[int]:
    """Returns how many units each group loses, so that at least `budget` parameters are removed, and hardly more.

    With `by_score`, units are removed where the score per parameter is least over all groups. Otherwise every group
    loses the same share: the coarse ones (heads) the nearest whole number of units, the finest (channels) the rest.

    Raises:
        MethodError: the budget would empty a layer; the greatest possible budget is named.
    """
    possible = sum(group.most * group.parameters for group in groups)
    if budget > possible:
        total = sum(group.units * group.parameters for group in groups)
        raise MethodError(
            f"to remove {budget} of the {total} parameters in prunable units would empty a layer",
            allowed=f"up to {possible}",
            do="Lower ratio, allow more units, or protect fewer blocks",
        )
    return _by_score(groups, budget) if by_score else _evenly(groups, budget)


def _by_score(groups: Sequence[Candidates], budget: int) -> list[int]:
    steps = []
    for place, group in enumerate(groups):
        losses = group.losses()
        for count in range(group.step, group.most + 1, group.step):
            rise = losses[count] - losses[count - group.step]
            steps.append((rise / (group.parameters * group.step), place, count))
    counts, missing, taken = [0] * len(groups), budget, list[int]()
    # steps sorted by score per parameter; within a group they rise, so the order respects that of each group
    for _, place, count in sorted(steps, key=lambda step: (step[0], step[1], step[2])):
        if missing <= 0:
            break
        counts[place] = count
        taken.append(place)
        missing -= groups[place].parameters * groups[place].step
    # the last, coarse unit may have overshot the budget by far: units that fit into the excess are put back, the most
    # important ones first
    for place in reversed(taken):
        if missing + groups[place].parameters * groups[place].step <= 0:
            counts[place] -= groups[place].step
            missing += groups[place].parameters * groups[place].step
    return counts


def _evenly(groups: Sequence[Candidates], budget: int) -> list[int]:
    counts = [0] * len(groups)
    waiting = list(range(len(groups)))
    missing = budget
    while waiting and missing > 0:
        share = min(1.0, missing / max(1, sum(groups[i].units * groups[i].parameters for i in waiting)))
        # the coarsest units first, rounded to whole units; the finer ones then meet the rest of the budget
        coarsest = max(groups[i].step / groups[i].units for i in waiting)
        now = [i for i in waiting if groups[i].step / groups[i].units == coarsest]
        last = len(now) == len(waiting)
        for place in now:
            group = groups[place]
            wanted = share * group.units / group.step
            steps = -int(-wanted // 1) if last else round(wanted)
            counts[place] = min(steps * group.step, group.most)
            missing -= counts[place] * group.parameters
        waiting = [i for i in waiting if i not in now]
    return _fill(groups, counts, missing)


def _fill(groups: Sequence[Candidates], counts: list[int], missing: int) -> list[int]:
    """Adds or takes back single steps, the finest first, until the budget is just met."""
    order = sorted(range(len(groups)), key=lambda i: (groups[i].parameters * groups[i].step, i))
    while missing > 0:
        place = min(
            (i for i in order if counts[i] + groups[i].step <= groups[i].most),
            key=lambda i: (groups[i].parameters * groups[i].step, counts[i] / groups[i].units),
        )
        counts[place] += groups[place].step
        missing -= groups[place].parameters * groups[place].step
    for place in reversed(order):
        group = groups[place]
        while counts[place] and missing + group.parameters * group.step <= 0:
            counts[place] -= group.step
            missing += group.parameters * group.step
    return counts
