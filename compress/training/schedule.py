"""The schedule of a training: number of steps, the sequences of each step, and the learning rate of each step.

Everything follows from the seed and the number of the step, so a resumed run needs no scheduler or generator state.

Shape letters: S sequences, B sequences of one step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch

from compress.errors import MethodError
from compress.methods.protocol import TrainingOptions
from compress.tuning import sequences

Keep = Literal["best", "last"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(TrainingOptions):
    """The options of every training with the learning rate and the kept state decided, and checked."""

    rate: float
    """Learning rate after the warm-up, above 0."""
    keep: Keep = "best"
    """`best`: the state of the lowest held-out loss, the first one included. `last`: that after the last step."""

    def __post_init__(self) -> None:
        least = {
            "steps": 0, "batch": 1, "micro_batch": 1, "checkpoint_every": 1, "evaluate_every": 1, "training_seed": 0
        }  # fmt: skip
        for name, value in least.items():
            if getattr(self, name) < value:
                raise MethodError(f"{name}={getattr(self, name)}", allowed=f"{value} or more")
        if not 0 <= self.warmup <= 1:
            raise MethodError(f"warmup={self.warmup}", allowed="0 to 1")
        if not 0 < self.rate < math.inf:
            raise MethodError(f"rate={self.rate}", allowed="more than 0")
        if not 0 <= self.weight_decay < math.inf:
            raise MethodError(f"weight_decay={self.weight_decay}", allowed="0 or more")
        if not self.clip > 0:
            raise MethodError(f"clip={self.clip}", allowed="more than 0, or inf")
        if not 0 < self.held_out < 1:
            raise MethodError(f"held_out={self.held_out}", allowed="more than 0, less than 1")

    @classmethod
    def of(
        cls, options: TrainingOptions, *, rate: float, weight_decay: float | None = None, keep: Keep = "best"
    ) -> Schedule:
        """Returns the schedule of a method's options; `weight_decay`, if given, replaces theirs."""
        values = {option.name: getattr(options, option.name) for option in fields(TrainingOptions)}
        values |= {"rate": rate, "keep": keep} | ({} if weight_decay is None else {"weight_decay": weight_decay})
        return cls(**values)

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of step `step`, counted from 0: a linear rise, then half a cosine down to zero."""
        rising = math.ceil(self.warmup * self.steps)
        if step < rising:
            return self.rate * (step + 1) / rising
        share = (step - rising) / max(1, self.steps - rising)
        return self.rate * 0.5 * (1 + math.cos(math.pi * share))

    def batch_at(self, step: int, sequences_S: torch.Tensor) -> torch.Tensor:
        """Returns the indices [B] of the sequences of step `step`, drawn from `sequences_S`.

        Every epoch is a new order of all sequences; a batch may extend into the next epoch.
        """
        count = sequences_S.numel()
        positions = range(step * self.batch, (step + 1) * self.batch)
        orders = {
            epoch: sequences.epoch_order(epoch, sequences_S, self.training_seed)
            for epoch in {position // count for position in positions}
        }
        return torch.stack([orders[position // count][position % count] for position in positions])
