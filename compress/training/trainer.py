"""The one training loop, on accelerate: AdamW, warm-up and cosine, accumulation, clipping, exact resume, several ranks.

What is trained is a `Lesson`; `tuning.distillation` and `tuning.ast` have one each. A run that is killed goes on from
its last checkpoint and ends with the same bytes as one that was not: the sequences of a step follow from the seed and
its number, and lessons draw whatever is random from those two as well, so there is no state of a generator to keep.

Under `accelerate launch` every rank takes its share of each batch. The loss is a sum over sequences divided by the size
of the whole batch, so that one process and several make the same step up to rounding, whatever the shares are.

Shape letters: S sequences, B sequences of one call.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import CalibrationError, MethodError
from compress.models.blocks import split
from compress.progress import Silent
from compress.training.checkpoint import Checkpoint, under
from compress.tuning import trainable_planes

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.progress import Progress
    from compress.training.schedule import Schedule

_FILE = "training.safetensors"
BETAS = (0.9, 0.95)
"""Of AdamW."""


class Lesson(nn.Module):
    """What is trained: a module whose forward gives the loss, and what else happens in a step."""

    tokens_per_sequence: int

    def forward(self, chosen_B: torch.Tensor, step: int) -> torch.Tensor:
        """Returns the loss of the sequences with these numbers, each a mean over its tokens, summed over sequences."""
        raise NotImplementedError

    def judge(self, chosen_B: torch.Tensor) -> torch.Tensor:
        """Returns the loss of held-out sequences, summed over them, of what would be stored now."""
        loss: torch.Tensor = self(chosen_B, 0)
        return loss

    def masters(self) -> dict[str, nn.Parameter]:
        """Returns everything that is trained, float32, by name, in a fixed order."""
        raise NotImplementedError

    def stepped(self, step: int, rate: float, adam: Mapping[Any, dict[str, torch.Tensor]]) -> None:
        """Is called after step `step` (counted from 0) was made with `rate`; `adam` is the state of AdamW."""

    def memory(self) -> dict[str, torch.Tensor]:
        """Returns what the next step depends on beside masters and moments."""
        return {}

    def remember(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Goes on from what `memory` gave."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training went. Losses are means over sequences; the masters of the lesson are those that are kept."""

    before: float
    """Held-out loss before the first step."""
    after: float
    """Held-out loss of the state that is kept."""
    best_step: int
    """Steps made when that state was reached."""
    steps: int
    losses: tuple[float, ...] = field(repr=False)
    """The training loss of every step."""
    tokens_per_second: float
    """Of this process group, over the steps it made itself; 0 where it made none."""
    seconds: float

    def report(self) -> dict[str, Any]:
        """Returns the account as JSON, at most 100 of the losses: what the run gives on any machine."""
        every = max(1, len(self.losses) // 50)
        return {
            "before": self.before, "after": self.after, "best_step": self.best_step, "steps": self.steps,
            "losses": [float(f"{loss:.6g}") for loss in self.losses[::every]], "losses_every": every,
        }  # fmt: skip

    def timing(self) -> dict[str, float]:
        """Returns what this machine needed, as JSON."""
        return {"tokens_per_second": round(self.tokens_per_second, 1), "seconds": round(self.seconds, 1)}


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training made of a model."""

    dense: dict[str, torch.Tensor] = field(repr=False)
    """Dense tensors by their names in the model, in the dtypes that they had there."""
    packed: dict[str, PackedTensor] = field(repr=False)
    """Packed linears by name."""
    report: dict[str, Any]
    """JSON: losses before and after, steps; the same for the same input, recipe and seed."""
    timing: dict[str, float]
    """JSON: tokens per second and seconds of this run, which no manifest should hold."""


def train(
    lesson: Lesson,
    sequences: int,
    schedule: Schedule,
    work_dir: Path,
    identity: Iterable[str | torch.Tensor],
    progress: Progress,
) -> Outcome:
    """Trains the lesson in place; its masters are those of the state that is kept afterwards.

    Args:
        lesson: moved to the device of this rank.
        sequences: how many there are; a part of them only judges.
        schedule: see there.
        work_dir: an existing folder, the same for all ranks, for `training.safetensors`; whoever gave it removes it.
        identity: what makes a run another one, beside the schedule: settings, data, starting weights.
        progress: where the steps are reported to, from the first rank.

    Memory: for every number that is trained 16 bytes (master, gradient, two moments), 4 more on the CPU where the best
    state is kept, and what the lesson takes for one micro-batch.

    Raises:
        CalibrationError: fewer than two sequences: one at least must be left to judge.
        MethodError: the loss or its gradient is not finite (the step is named; the state before it is kept in
            `training.safetensors`), or there are more processes than sequences in a batch.
        OutputError: the folder holds the checkpoint of another run, or cannot be written.
    """
    if sequences < 2:
        raise CalibrationError(
            "one sequence, and training keeps at least one back to judge by", do="Raise --samples to 2 or more"
        )
    return _Training(lesson, sequences, schedule, Checkpoint(work_dir / _FILE, [repr(schedule), *identity])).run(
        progress
    )


class _Whole(nn.Module):
    """A lesson in whose loss every master takes part, if only by nothing.

    Ranks wait for the gradients of all; and a master without one would be left out by AdamW, on one rank or on all.
    """

    def __init__(self, lesson: Lesson):
        super().__init__()
        self.lesson = lesson

    def forward(self, chosen_B: torch.Tensor, step: int) -> torch.Tensor:
        loss: torch.Tensor = self.lesson(chosen_B, step)
        return loss + 0.0 * torch.stack([master.reshape(-1)[0] for master in self.lesson.masters().values()]).sum()


class _Training:
    def __init__(self, lesson: Lesson, sequences: int, schedule: Schedule, checkpoint: Checkpoint):
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, DistributedType

        # buffers (masks) follow from the masters, which are the same on every rank
        self.accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
        kinds = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if self.accelerator.distributed_type not in kinds:
            raise MethodError(
                f"training under {self.accelerator.distributed_type}",
                allowed="one process, or data parallel processes (MULTI_CPU, MULTI_GPU)",
                do="Choose plain multi-CPU or multi-GPU in `accelerate config`",
            )
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        if schedule.batch < self.world:
            raise MethodError(
                f"batch={schedule.batch} with {self.world} processes", allowed=f"{self.world} or more, one for each"
            )
        self.lesson, self.schedule, self.checkpoint = lesson.to(self.accelerator.device), schedule, checkpoint
        self.masters = lesson.masters()
        with warnings.catch_warnings():
            # its successor in torch 2.13 cannot be given through accelerate
            warnings.filterwarnings("ignore", message="`broadcast_buffers`", category=FutureWarning)
            self.wrapped = self.accelerator.prepare_model(_Whole(lesson))
        grouped = [
            {"params": [p for p in self.masters.values() if p.dim() > 1], "weight_decay": schedule.weight_decay},
            {"params": [p for p in self.masters.values() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in grouped if group["params"]]
        self.adam = torch.optim.AdamW(groups, lr=schedule.rate, betas=BETAS, eps=1e-10)
        self.train_S, self.held_S = trainable_planes.held_out(sequences, schedule.held_out, schedule.seed)
        self.step = self.best_step = 0
        self.before = self.best = math.inf
        self.losses: list[float] = []
        self.kept: dict[str, torch.Tensor] = {}

    def run(self, progress: Progress) -> Outcome:
        schedule, started = self.schedule, time.monotonic()
        if not self.accelerator.is_main_process:
            progress = Silent()
        if not self._load():
            self.before = self._judged()
            self._look(self.before)
        first = self.step
        with progress.stage("Training", schedule.steps) as task:
            task.advance(self.step, f"held-out loss {self.best:.4g}")
            while self.step < schedule.steps:
                self._advance()
                if self.step % schedule.evaluate_every == 0 or self.step == schedule.steps:
                    self._look(self._judged())
                if self.step % schedule.checkpoint_every == 0 or self.step == schedule.steps:
                    self._save()
                task.advance(1, self._note(time.monotonic() - started, self.step - first))
        self._take(self.kept)
        seconds = time.monotonic() - started
        speed = (self.step - first) * schedule.batch * self.lesson.tokens_per_sequence / max(seconds, 1e-9)
        lost = f"held-out loss {self.before:.4g} → {self.best:.4g}"
        progress.note(f"Trained {self.step - first} steps at {speed:,.0f} tokens/s: {lost}")
        return Outcome(self.before, self.best, self.best_step, self.step, tuple(self.losses), speed, seconds)

    def _advance(self) -> None:
        """Makes one step; what is not finite stops before it."""
        schedule, step = self.schedule, self.step
        batch_S = schedule.batch_at(step, self.train_S)
        loss = self._backward(batch_S)
        norm = float(nn.utils.clip_grad_norm_(self.masters.values(), schedule.clip))
        if not math.isfinite(loss) or not math.isfinite(norm):
            self._save()
            what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient has the norm {norm}"
            raise MethodError(
                f"{what} at step {step + 1} of {schedule.steps}",
                do=f"Lower --rate, raise --warmup or leave --bf16 out, and start over with --fresh; the state after "
                f"step {step} is kept in {self.checkpoint.path}",
            )
        rate = schedule.rate_at(step)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.lesson.stepped(step, rate, self.adam.state)
        self.losses.append(loss)
        self.step += 1

    def _backward(self, batch_S: torch.Tensor) -> float:
        """Adds the gradient of the mean loss of the whole batch, and returns that loss; the same on every rank."""
        pieces = split(batch_S[self.rank :: self.world], self.schedule.micro_batch)
        total = torch.zeros((), device=self.accelerator.device)
        for number, piece_B in enumerate(pieces):
            waits = self.accelerator.no_sync(self.wrapped) if number + 1 < len(pieces) else nullcontext()
            with waits:
                with self._precision():
                    loss = self.wrapped(piece_B, self.step)
                # ranks are averaged by accelerate; what is wanted is their sum
                self.accelerator.backward(loss * (self.world / batch_S.numel()))
            total += loss.detach().float()
        return self._summed(total) / batch_S.numel()

    @torch.no_grad()
    def _judged(self) -> float:
        """Returns the mean loss of the held-out sequences; the same on every rank."""
        total = torch.zeros((), device=self.accelerator.device)
        mine_S = self.held_S[self.rank :: self.world]
        for piece_B in split(mine_S, self.schedule.micro_batch) if mine_S.numel() else ():
            with self._precision():
                total += self.lesson.judge(piece_B).float()
        return self._summed(total) / self.held_S.numel()

    def _summed(self, total: torch.Tensor) -> float:
        return float(self.accelerator.reduce(total, "sum"))

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.schedule.bf16)

    def _look(self, loss: float) -> None:
        """Keeps the present state if it is the one to keep."""
        if self.schedule.keep == "last":
            self.best, self.best_step = loss, self.step
        elif loss < self.best:
            self.best, self.best_step = loss, self.step
            self.kept = {name: master.detach().cpu().clone() for name, master in self.masters.items()}

    @torch.no_grad()
    def _take(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, weight in weights.items():
            self.masters[name].copy_(weight)

    def _note(self, seconds: float, steps: int) -> str:
        speed = steps * self.schedule.batch * self.lesson.tokens_per_sequence / max(seconds, 1e-9)
        left = seconds / steps * (self.schedule.steps - self.step)
        clock = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"
        return f"loss {self.losses[-1]:.4g}, held-out {self.best:.4g}, {speed:,.0f} tokens/s, {clock} left"

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
            for name in ("step", "best_step"):
                tensors[name] = torch.tensor(getattr(self, name), dtype=torch.int64)
            for name in ("before", "best"):
                tensors[name] = torch.tensor(getattr(self, name), dtype=torch.float64)
            for name, master in self.masters.items():
                tensors[f"weight:{name}"] = master.detach()
                tensors |= {f"adam:{name}:{key}": value for key, value in self.adam.state.get(master, {}).items()}
            tensors |= {f"best:{name}": tensor for name, tensor in self.kept.items()}
            tensors |= {f"lesson:{name}": tensor for name, tensor in self.lesson.memory().items()}
            self.checkpoint.write(tensors)
        self.accelerator.wait_for_everyone()

    def _load(self) -> bool:
        tensors = self.checkpoint.read()
        if tensors is None:
            return False
        self.losses = tensors["losses"].tolist()
        for name in ("step", "best_step"):
            setattr(self, name, int(tensors[name]))
        for name in ("before", "best"):
            setattr(self, name, float(tensors[name]))
        self._take(under("weight", tensors))
        for name, master in self.masters.items():
            if moments := under(f"adam:{name}", tensors):
                # the counter of steps stays on the CPU, where AdamW keeps it
                self.adam.state[master] = {k: v if v.dim() == 0 else v.to(master) for k, v in moments.items()}
        self.kept = under("best", tensors)
        self.lesson.remember(under("lesson", tensors))
        return True
