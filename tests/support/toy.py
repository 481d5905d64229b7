"""A training task as small as one can be: a few numbers that are fitted to what other numbers give.

Run as a module it trains and writes what it found: `python -m tests.support.toy FOLDER`, on every rank that runs it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.format import files
from compress.progress import Progress, Silent
from compress.training import trainer
from compress.training.schedule import Schedule
from compress.training.task import Outcome, TrainingTask

SEQUENCES, TOKENS, WIDTH = 30, 8, 6
PLAN = Schedule(steps=11, rate=0.05, batch=5, micro_batch=2, checkpoint_every=4, evaluate_every=3, weight_decay=0.1)


class Toy(TrainingTask):
    """Two layers learn what two others say of random inputs; the second one sees every other sequence only."""

    tokens_per_sequence = TOKENS

    def __init__(self, *, bad_at: int | None = None):
        super().__init__()
        made = torch.Generator().manual_seed(0)
        self.x_STK = torch.randn(SEQUENCES, TOKENS, WIDTH, generator=made)
        self.wanted_STK = torch.tanh(self.x_STK @ torch.randn(WIDTH, WIDTH, generator=made))
        self.first = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=made))
        self.second = nn.Parameter(torch.zeros(WIDTH))
        self.calls = torch.zeros((), dtype=torch.int64)
        self.bad_at, self.rates = bad_at, list[float]()

    def masters(self) -> dict[str, nn.Parameter]:
        return {"first.weight": self.first, "second.bias": self.second}

    def forward(self, chosen_B: torch.Tensor, step: int) -> torch.Tensor:
        lost = torch.zeros(())
        for number in chosen_B.tolist():
            found_TK = torch.tanh(self.x_STK[number] @ self.first)
            if number % 2:
                found_TK = found_TK + self.second
            lost = lost + (found_TK - self.wanted_STK[number]).square().mean()
        return lost / 0.0 if step == self.bad_at else lost

    def held_out_loss(self, chosen_B: torch.Tensor) -> torch.Tensor:
        return self(chosen_B, -1)

    def after_step(self, step: int, rate: float, adam: Mapping[Any, dict[str, torch.Tensor]]) -> None:
        self.calls += 1
        self.rates.append(rate)
        assert int(adam[self.first]["step"]) == step + 1

    def extra_state(self) -> dict[str, torch.Tensor]:
        return {"calls": self.calls}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.calls.copy_(tensors["calls"])

    def found(self) -> dict[str, torch.Tensor]:
        return {name: master.detach().clone() for name, master in self.masters().items()} | {"calls": self.calls}


def learn(
    folder: Path, schedule: Schedule = PLAN, task: Toy | None = None, progress: Progress | None = None
) -> tuple[Toy, Outcome]:
    task = task or Toy()
    return task, trainer.train(task, SEQUENCES, schedule, folder, ["toy", Toy().first], progress or Silent())


if __name__ == "__main__":
    place = Path(sys.argv[1])
    toy, outcome = learn(place)
    from accelerate import PartialState

    state = PartialState()
    assert state.num_processes == 2 and state.backend == "gloo", state
    said = {"losses": torch.tensor(outcome.losses), "held": torch.tensor([outcome.before, outcome.after])}
    files.write_tensors(place / f"rank{state.process_index}.safetensors", toy.found() | said)
