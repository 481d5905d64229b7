"""Times contenders in turns in one process, so that a slow moment of the machine affects all of them alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch

from compress import devices

CPU = torch.device("cpu")
_TURN_SECONDS = 0.004
"""A turn ends when this long has been timed, after at least one call."""
_MOST_CALLS = 16
"""Largest number of timed calls in a turn."""


@dataclass(slots=True)
class Contender:
    """One implementation of the product that all contenders compute."""

    name: str
    calls: Sequence[Callable[[], object]]
    """The product with each copy of the weight, used in turns: together the copies are larger than the caches."""
    packed_bytes: int
    """Bytes of the weights as they are stored."""
    facts: dict[str, object] = field(default_factory=dict)
    """Further properties for the result: kernel, bits per weight."""
    device: torch.device = CPU
    """Device of the product; calls on an accelerator only start it."""
    seconds: list[float] = field(default_factory=list)
    """One entry per timed call; on an accelerator the mean over the calls of a turn."""
    _next: int = 0

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return median(self.seconds)

    def turn(self) -> None:
        """Runs one untimed call, which wakes threads and reloads code, and then timed ones.

        An accelerator is given all calls of the turn before it is waited for, as a model gives them to it.
        """
        self._call()
        if self.device.type != "cpu":
            self.seconds.append(self._queue())
            return
        spent, calls = 0.0, 0
        while calls < _MOST_CALLS and (not calls or spent < _TURN_SECONDS):
            start = time.perf_counter()
            self._call()
            self.seconds.append(time.perf_counter() - start)
            spent, calls = spent + self.seconds[-1], calls + 1

    def _queue(self) -> float:
        """Returns the mean seconds of a call, from the start of the first to the end of the last."""
        devices.synchronise(self.device)
        start = time.perf_counter()
        for _ in range(_MOST_CALLS):
            self._call()
        devices.synchronise(self.device)
        return (time.perf_counter() - start) / _MOST_CALLS

    def _call(self) -> None:
        self.calls[self._next % len(self.calls)]()
        self._next += 1


def interleave(contenders: Sequence[Contender], *, seconds: float, rounds: int | None = None, least: int = 3) -> int:
    """Gives every contender a turn in each round, in a new random order, and returns the number of rounds.

    It makes `rounds` rounds, or runs for about `seconds` but at least `least` rounds.
    """
    for contender in contenders:
        contender.turn()  # builds tables, compiles kernels
        contender.seconds.clear()
    order, done, start = random.Random(0), 0, time.perf_counter()
    required = least if rounds is None else rounds
    while done < required or (rounds is None and time.perf_counter() - start < seconds):
        for contender in order.sample(contenders, len(contenders)):
            contender.turn()
        done += 1
    return done
