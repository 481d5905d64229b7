"""Fair timing: contenders take turns in one process, so that a slow moment of the machine hits all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

_TURN_SECONDS = 0.004
"""A turn goes on until this long has been timed, and has at least one timed call."""
_MOST_CALLS = 16


@dataclass(slots=True)
class Contender:
    """One way of computing the same thing."""

    name: str
    calls: Sequence[Callable[[], object]]
    """The same work on copies of the weights, which take turns: together they are larger than the caches."""
    packed_bytes: int
    """Bytes of the weights as they are stored."""
    facts: dict[str, object] = field(default_factory=dict)
    """What else the result says of it."""
    seconds: list[float] = field(default_factory=list)
    """One entry per timed call."""
    _next: int = 0

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return median(self.seconds)

    def turn(self) -> None:
        """Runs one call that is not timed, which brings threads and code back, and then timed ones."""
        self._call()
        spent, calls = 0.0, 0
        while calls < _MOST_CALLS and (not calls or spent < _TURN_SECONDS):
            start = time.perf_counter()
            self._call()
            self.seconds.append(time.perf_counter() - start)
            spent, calls = spent + self.seconds[-1], calls + 1

    def _call(self) -> None:
        self.calls[self._next % len(self.calls)]()
        self._next += 1


def interleave(contenders: Sequence[Contender], *, seconds: float, rounds: int | None = None, least: int = 3) -> int:
    """Gives every contender a turn in each round, in an order drawn anew; returns the rounds.

    Goes on for `rounds`, or for about `seconds` but at least `least` rounds.
    """
    for contender in contenders:
        contender.turn()  # tables are built, kernels compiled
        contender.seconds.clear()
    order, done, start = random.Random(0), 0, time.perf_counter()
    wanted = least if rounds is None else rounds
    while done < wanted or (rounds is None and time.perf_counter() - start < seconds):
        for contender in order.sample(contenders, len(contenders)):
            contender.turn()
        done += 1
    return done
