"""Which units go: the least important ones, until a budget of parameters is met.

Shape letters: U units of one set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compress.errors import MethodError


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Sets of units that must lose equally many: one choice, how many."""

    name: str
    scores: tuple[torch.Tensor, ...]
    """Of every set, one score per unit [U]; all sets have equally many."""
    parameters: int
    """What leaves the model when every set loses one unit."""
    step: int = 1
    """Units leave in multiples of this."""

    @property
    def units(self) -> int:
        """Units of each set."""
        return len(self.scores[0])

    @property
    def most(self) -> int:
        """Units that may leave a set: at least one stays, and what stays is a multiple of `step` if it was one."""
        return max(0, (self.units - 1) // self.step * self.step)

    def losses(self) -> list[float]:
        """Returns the summed score of what leaves when 0, 1, 2 … units do, the least important first."""
        rising = sum(scores.double().sort().values for scores in self.scores)
        assert isinstance(rising, torch.Tensor)
        return [0.0, *rising.cumsum(0).tolist()]

    def least(self, count: int) -> list[torch.Tensor]:
        """Returns the `count` least important units of every set, int64, rising; of equals the first."""
        return [scores.sort(stable=True).indices[:count].sort().values for scores in self.scores]


def choose(groups: Sequence[Candidates], budget: int, *, by_score: bool) -> list[int]:
    """Returns how many units each of `groups` loses, so that at least `budget` parameters leave, and hardly more.

    `by_score`: where the score per parameter is least, over all groups. Otherwise every group loses the same share:
    the coarse ones (heads) the nearest whole number of units, the finest (channels) what is left of the budget.

    Raises:
        MethodError: so much can only leave when a group is emptied; the most that is possible is named.
    """
    possible = sum(group.most * group.parameters for group in groups)
    if budget > possible:
        total = sum(group.units * group.parameters for group in groups)
        raise MethodError(
            f"{budget} parameters are to leave, which would empty a layer: of the {total} that units hold",
            allowed=f"up to {possible} without emptying one",
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
    counts, left, taken = [0] * len(groups), budget, list[int]()
    # within a group the steps rise, so the order of all steps respects that of each group
    for _, place, count in sorted(steps, key=lambda step: (step[0], step[1], step[2])):
        if left <= 0:
            break
        counts[place] = count
        taken.append(place)
        left -= groups[place].parameters * groups[place].step
    # a coarse unit at the end may have brought far more than was missing: others come back, the dearest first
    for place in reversed(taken):
        if left + groups[place].parameters * groups[place].step <= 0:
            counts[place] -= groups[place].step
            left += groups[place].parameters * groups[place].step
    return counts


def _evenly(groups: Sequence[Candidates], budget: int) -> list[int]:
    counts = [0] * len(groups)
    waiting = list(range(len(groups)))
    left = budget
    while waiting and left > 0:
        share = min(1.0, left / max(1, sum(groups[i].units * groups[i].parameters for i in waiting)))
        # the coarsest units first: what they leave undone, the finer ones make up for
        coarsest = max(groups[i].step / groups[i].units for i in waiting)
        now = [i for i in waiting if groups[i].step / groups[i].units == coarsest]
        last = len(now) == len(waiting)
        for place in now:
            group = groups[place]
            wanted = share * group.units / group.step
            steps = -int(-wanted // 1) if last else round(wanted)
            counts[place] = min(steps * group.step, group.most)
            left -= counts[place] * group.parameters
        waiting = [i for i in waiting if i not in now]
    return _fill(groups, counts, left)


def _fill(groups: Sequence[Candidates], counts: list[int], left: int) -> list[int]:
    """Takes single steps off or on, the finest first, until the budget is just met."""
    order = sorted(range(len(groups)), key=lambda i: (groups[i].parameters * groups[i].step, i))
    while left > 0:
        place = min(
            (i for i in order if counts[i] + groups[i].step <= groups[i].most),
            key=lambda i: (groups[i].parameters * groups[i].step, counts[i] / groups[i].units),
        )
        counts[place] += groups[place].step
        left -= groups[place].parameters * groups[place].step
    for place in reversed(order):
        group = groups[place]
        while counts[place] and left + group.parameters * group.step <= 0:
            counts[place] -= group.step
            left += group.parameters * group.step
    return counts
