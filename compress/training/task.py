"""The interface between the training loop and what is trained, and the results of a training.

Shape letters: B sequences of one call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor


class TrainingTask(nn.Module):
    """What is trained: a module whose forward returns the loss, with hooks for the rest of a step."""

    tokens_per_sequence: int

    def forward(self, chosen_B: torch.Tensor, step: int) -> torch.Tensor:
        """Returns the loss of the sequences with these indices: a mean over the tokens of each, summed over them."""
        raise NotImplementedError

    def held_out_loss(self, chosen_B: torch.Tensor) -> torch.Tensor:
        """Returns the loss of held-out sequences, summed over them, with the values that would be stored now."""
        loss: torch.Tensor = self(chosen_B, 0)
        return loss

    def masters(self) -> dict[str, nn.Parameter]:
        """Returns everything that is trained, float32, by name, in a fixed order."""
        raise NotImplementedError

    def after_step(self, step: int, rate: float, adam: Mapping[Any, dict[str, torch.Tensor]]) -> None:
        """Runs after step `step` (counted from 0) was made with `rate`; `adam` is the state of AdamW."""

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Returns what the next step depends on beside masters and moments, for the checkpoint."""
        return {}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restores what `extra_state` returned."""


class ModelTask(TrainingTask):
    """A task that trains a model."""

    def starting_weights(self) -> list[torch.Tensor]:
        """Returns the weights before training, which are part of the run's identity."""
        raise NotImplementedError

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        """Returns changed dense tensors and packed linears, as they are to be stored; call it once, at the end."""
        raise NotImplementedError

    def report(self) -> dict[str, Any]:
        """Returns what the task adds to the report, as JSON."""
        return {}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Losses and speed of a training. Losses are means over sequences; the masters are those of the kept state."""

    before: float
    """Held-out loss before the first step."""
    after: float
    """Held-out loss of the kept state."""
    best_step: int
    """Number of steps after which the kept state was reached."""
    steps: int
    losses: tuple[float, ...] = field(repr=False)
    """The training loss of every step."""
    tokens_per_second: float
    """Of all processes together, over the steps that this run made itself; 0 where it made none."""
    seconds: float

    def report(self) -> dict[str, Any]:
        """Returns the losses as JSON, at most 100 of them; the same on any machine."""
        every = max(1, len(self.losses) // 50)
        return {
            "before": self.before, "after": self.after, "best_step": self.best_step, "steps": self.steps,
            "losses": [float(f"{loss:.6g}") for loss in self.losses[::every]], "losses_every": every,
        }  # fmt: skip

    def timing(self) -> dict[str, float]:
        """Returns the speed on this machine as JSON."""
        return {"tokens_per_second": round(self.tokens_per_second, 1), "seconds": round(self.seconds, 1)}
