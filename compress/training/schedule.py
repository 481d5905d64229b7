"""The schedule of a training: number of steps, the sequences of each step, and the learning rate of each step.

Everything follows from the seed and the number of the step, so a resumed run needs no scheduler or generator state.

Shape letters: S sequences, B sequences of one step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from compress.errors import MethodError
from compress.tuning import sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Settings of `training.trainer`."""

    steps: int
    """Steps of AdamW, 0 or more."""
    rate: float
    """Learning rate after the warm-up, above 0."""
    batch: int = 16
    """Sequences of one step over all processes, 1 or more."""
    micro_batch: int = 4
    """Sequences that a process has in memory at once, 1 or more: changes nothing but rounding."""
    warmup: float = 0.05
    """Share of the steps over which the rate rises, 0 to 1; after it, the rate falls to zero along a cosine."""
    weight_decay: float = 0.0
    """Decoupled decay of matrices per step in units of the rate, 0 or more; vectors never decay."""
    clip: float = 1.0
    """Largest norm of the gradient, above 0; inf for no clipping."""
    checkpoint_every: int = 50
    """Steps between two checkpoints from which a killed run resumes, 1 or more."""
    evaluate_every: int = 50
    """Steps between two evaluations on the held-out sequences, 1 or more."""
    held_out: float = 0.05
    """Share of the sequences that is held out, above 0 and below 1; at least one sequence."""
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
    def from_options(
        cls,
        options: Any,
        *,
        rate: float,
        weight_decay: float | None = None,
        keep: Literal["best", "last"] = "best",
    ) -> Schedule:
        """Returns the schedule of a method's options; `weight_decay` replaces that of the options where it is given."""
        return cls(
            steps=options.steps, rate=rate, batch=options.batch, micro_batch=options.micro_batch,
            warmup=options.warmup, weight_decay=options.weight_decay if weight_decay is None else weight_decay,
            clip=options.clip, checkpoint_every=options.checkpoint_every, evaluate_every=options.evaluate_every,
            held_out=options.held_out, keep=keep, bf16=options.bf16, seed=options.training_seed,
        )  # fmt: skip

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
            epoch: sequences.epoch_order(epoch, sequences_S, self.seed)
            for epoch in {position // count for position in positions}
        }
        return torch.stack([orders[position // count][position % count] for position in positions])
