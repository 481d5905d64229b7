"""The schedule of a training: how many steps, which sequences each takes, and how far each goes.

Which sequences a step takes follows from the seed and its number, so a resumed run needs to remember neither.

Shape letters: S sequences, B sequences of one step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from compress.errors import MethodError
from compress.tuning import trainable_planes


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Numbers that steer `tuning.trainer`."""

    steps: int
    """Steps of AdamW, 0 or more."""
    rate: float
    """Learning rate after the warm-up, above 0."""
    batch: int = 16
    """Sequences of one step over all processes, 1 or more."""
    micro_batch: int = 4
    """Sequences that a process has in memory at once, 1 or more: changes nothing but rounding."""
    warmup: float = 0.05
    """Share of the steps over which the rate rises, 0 to 1."""
    floor: float = 0.0
    """Share of `rate` at which the cosine ends, 0 to 1."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices per step in units of the rate, 0 or more; vectors never decay."""
    clip: float = 1.0
    """Greatest norm of the gradient, above 0; inf for none."""
    checkpoint_every: int = 50
    """Steps between two checkpoints that a killed run goes on from, 1 or more."""
    evaluate_every: int = 50
    """Steps between two looks at the held-out sequences, 1 or more."""
    held_out: float = 0.05
    """Share of the sequences that only judges, above 0 and below 1; at least one sequence."""
    keep: Literal["best", "last"] = "best"
    """`best`: the state of the lowest held-out loss, the first one included. `last`: that after the last step."""
    bf16: bool = False
    """Runs the forward in bfloat16; masters, moments and losses stay float32."""
    seed: int = 0
    """Seed of the draw of the held-out sequences and of the order of the others, 0 or more."""

    def __post_init__(self) -> None:
        least = {"steps": 0, "batch": 1, "micro_batch": 1, "checkpoint_every": 1, "evaluate_every": 1, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise MethodError(f"{name}={getattr(self, name)}", allowed=f"{value} or more")
        for name in ("warmup", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise MethodError(f"{name}={getattr(self, name)}", allowed="0 to 1")
        if not 0 < self.rate < math.inf:
            raise MethodError(f"rate={self.rate}", allowed="more than 0")
        if not 0 <= self.weight_decay < math.inf:
            raise MethodError(f"weight_decay={self.weight_decay}", allowed="0 or more")
        if not self.clip > 0:
            raise MethodError(f"clip={self.clip}", allowed="more than 0, or inf")
        if not 0 < self.held_out < 1:
            raise MethodError(f"held_out={self.held_out}", allowed="more than 0, less than 1")

    def rate_at(self, step: int) -> float:
        """Returns the rate of step `step`, counted from 0: a linear rise, then half a cosine down to the floor."""
        rising = math.ceil(self.warmup * self.steps)
        if step < rising:
            return self.rate * (step + 1) / rising
        share = (step - rising) / max(1, self.steps - rising)
        return self.rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share)))

    def batch_at(self, step: int, sequences_S: torch.Tensor) -> torch.Tensor:
        """Returns the numbers [B] of the sequences of step `step`, drawn from `sequences_S`.

        Every epoch is a new order of all sequences; a batch may reach over its end.
        """
        count = sequences_S.numel()
        places = range(step * self.batch, (step + 1) * self.batch)
        orders = {
            epoch: trainable_planes.order_of(epoch, sequences_S, self.seed)
            for epoch in {place // count for place in places}
        }
        return torch.stack([orders[place // count][place % count] for place in places])
