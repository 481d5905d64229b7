"""The training loop of whole models: AdamW, warm-up and cosine, accumulation, clipping, exact resume, data parallelism.

It runs on accelerate and trains a `TrainingTask`; distillation, sparse training and learned masks define one each.
Block tuning and end-to-end tuning have loops of their own in `compress.tuning`: they stop early and use one process.

A killed run resumes from its last checkpoint and ends with the same bytes as an uninterrupted one: the sequences of a
step follow from the seed and the number of the step, and tasks draw whatever is random from those two as well, so there
is no generator state to save.

Under `accelerate launch` every process takes its share of each batch. The loss is a sum over sequences divided by the
size of the whole batch, so one process and several make the same step up to rounding, however the batch is shared out.

Shape letters: S sequences, B sequences of one call.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.errors import MethodError, counted
from compress.models.blocks import split
from compress.progress import Silent
from compress.training.task import Outcome, TrainingTask
from compress.tuning import sequences
from compress.tuning.checkpoint import Checkpoint, restore_trained, trained_tensors, under

if TYPE_CHECKING:
    from accelerate import Accelerator

    from compress.progress import Progress
    from compress.training.schedule import Schedule

_FILE = "training.safetensors"
BETAS = (0.9, 0.95)
"""Of AdamW. With 0.95 the second moment averages over about 20 steps: trainings here have hundreds, not 10^5."""
_EPSILON = 1e-10
"""Of AdamW, below the gradients of offsets and LoRA factors, which are far smaller than those of plain weights."""


def train(
    task: TrainingTask,
    num_sequences: int,
    schedule: Schedule,
    work_dir: Path,
    identity: Iterable[str | torch.Tensor],
    progress: Progress,
) -> Outcome:
    """Trains the task in place; afterwards its masters are those of the kept state.

    Args:
        task: trained on the device of its masters; of several processes, on the one that accelerate gives each.
        num_sequences: number of sequences; a part of them is held out.
        schedule: see `Schedule`.
        work_dir: an existing folder, the same for all processes, for `training.safetensors`; the caller removes it.
        identity: what makes a run a different one, beside the schedule: settings, data, starting weights.
        progress: where the steps are reported, from the main process.

    Memory: for every trained number 16 bytes (master, gradient, two moments), 4 more on the CPU where the best state is
    kept, and what the task needs for one micro-batch.

    Raises:
        CalibrationError: fewer than two sequences.
        MethodError: the loss or its gradient is not finite (the step is named; the state before it is kept in
            `training.safetensors`), or there are more processes than sequences in a batch.
        OutputError: the folder holds the checkpoint of another run, or cannot be written.
    """
    sequences.check_enough(num_sequences)
    checkpoint = Checkpoint(work_dir / _FILE, [repr(schedule), *identity])
    return _Training(task, num_sequences, schedule, checkpoint).run(progress)


def device_of(accelerator: Accelerator, module: nn.Module) -> torch.device:
    """Returns where this process trains a module: on the module's device, or on its own if there are several processes.

    accelerate alone would take a GPU whenever it sees one.
    """
    device: torch.device = accelerator.device
    return device if accelerator.num_processes > 1 else next(module.parameters()).device


class _WithAllMasters(nn.Module):
    """Adds 0 times every master to the loss, so that each one has a gradient in every step.

    DistributedDataParallel waits for the gradients of all parameters, and AdamW skips a parameter without a gradient:
    an expert that no token was routed to on one process would otherwise hang the run, or move differently there.
    """

    def __init__(self, task: TrainingTask):
        super().__init__()
        self.task = task

    def forward(self, chosen_B: torch.Tensor, step: int) -> torch.Tensor:
        loss: torch.Tensor = self.task(chosen_B, step)
        return loss + 0.0 * torch.stack([master.reshape(-1)[0] for master in self.task.masters().values()]).sum()


class _Training:
    def __init__(self, task: TrainingTask, num_sequences: int, schedule: Schedule, checkpoint: Checkpoint):
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs, DistributedType

        # buffers (masks) are computed from the masters, which are the same in every process
        self.accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
        supported = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if self.accelerator.distributed_type not in supported:
            raise MethodError(
                f"training under {self.accelerator.distributed_type}",
                allowed="one process, or data parallel processes (MULTI_CPU, MULTI_GPU)",
                do="Choose plain multi-CPU or multi-GPU in `accelerate config`",
            )
        self.rank, self.num_processes = self.accelerator.process_index, self.accelerator.num_processes
        if schedule.batch < self.num_processes:
            raise MethodError(
                f"batch={schedule.batch} with {self.num_processes} processes",
                allowed=f"{self.num_processes} or more, at least one sequence for each process",
            )
        self.device = device_of(self.accelerator, task)
        self.task, self.schedule, self.checkpoint = task.to(self.device), schedule, checkpoint
        self.masters = task.masters()
        with warnings.catch_warnings():
            # torch 2.13 deprecates the argument, and accelerate has no way to pass its successor
            warnings.filterwarnings("ignore", message="`broadcast_buffers`", category=FutureWarning)
            self.wrapped = self.accelerator.prepare_model(_WithAllMasters(task), device_placement=False)
        self.adam = _adamw(self.masters, schedule)
        self.train_S, self.held_out_S = sequences.split_held_out(
            num_sequences, schedule.held_out, schedule.training_seed
        )
        self.step = self.best_step = 0
        self.before = self.best = math.inf
        self.losses: list[float] = []
        self.best_masters: dict[str, torch.Tensor] = {}

    def run(self, progress: Progress) -> Outcome:
        schedule, start_time = self.schedule, time.monotonic()
        if not self.accelerator.is_main_process:
            progress = Silent()
        # the state before the first step is a candidate: with keep="best", training never raises the held-out loss
        if not self._load():
            self.before = self._held_out_loss()
            self._keep_if_best(self.before)
        first_step = self.step
        with progress.stage("Training", schedule.steps) as reported:
            reported.advance(self.step, f"held-out loss {self.best:.4g}")
            while self.step < schedule.steps:
                self._advance()
                # evaluate before saving, so that a checkpoint holds the evaluation of its own step
                if self.step % schedule.evaluate_every == 0 or self.step == schedule.steps:
                    self._keep_if_best(self._held_out_loss())
                if self.step % schedule.checkpoint_every == 0 or self.step == schedule.steps:
                    self._save()
                reported.advance(1, self._note(time.monotonic() - start_time, self.step - first_step))
        self._set_masters(self.best_masters)
        seconds = time.monotonic() - start_time
        steps_made = self.step - first_step
        speed = self._tokens_per_second(seconds, steps_made)
        change = f"held-out loss {self.before:.4g} → {self.best:.4g}"
        progress.note(f"Trained {counted(steps_made, 'step')} at {speed:,.0f} tokens/s: {change}")
        return Outcome(self.before, self.best, self.best_step, self.step, tuple(self.losses), speed, seconds)

    def _advance(self) -> None:
        """Makes one step, unless loss or gradient are not finite: then it saves the state before it and stops."""
        schedule, step = self.schedule, self.step
        # 1. gradient of the mean loss over the batch
        loss = self._backward(schedule.batch_at(step, self.train_S))
        # 2. clipping bounds a single outlier batch; the norm is taken over all masters, and is equal in all processes
        norm = float(nn.utils.clip_grad_norm_(self.masters.values(), schedule.clip))
        # 3. one step on a NaN would destroy masters and moments for good: stop while they are still finite
        if not math.isfinite(loss) or not math.isfinite(norm):
            self._save()
            self._refuse_not_finite(loss, norm)
        # 4. AdamW at the rate of this step; a rate that is a function of the step number resumes exactly
        rate = schedule.rate_at(step)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        # 5. what the method does beside the gradient: decay of pruned weights, new masks
        with torch.no_grad():
            self.task.after_step(step, rate, self.adam.state)
        self.losses.append(loss)
        self.step += 1

    def _refuse_not_finite(self, loss: float, norm: float) -> None:
        problem = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient has the norm {norm}"
        raise MethodError(
            f"{problem} at step {self.step + 1} of {self.schedule.steps}",
            do=f"Lower --rate, raise --warmup or leave --bf16 out, and start over with --fresh; the state after "
            f"step {self.step} is kept in {self.checkpoint.path}",
        )

    def _backward(self, batch_S: torch.Tensor) -> float:
        """Adds the gradient of the mean loss of the whole batch, and returns that loss; the same in every process."""
        micro_batches = split(batch_S[self.rank :: self.num_processes], self.schedule.micro_batch)
        total = torch.zeros((), device=self.device)
        for number, chosen_B in enumerate(micro_batches, start=1):
            # gradients are exchanged once per step, with the last micro-batch
            last = number == len(micro_batches)
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                with self._precision():
                    loss = self.wrapped(chosen_B, self.step)
                # DistributedDataParallel averages over processes; the factor num_processes turns that into a sum
                self.accelerator.backward(loss * (self.num_processes / batch_S.numel()))
            total += loss.detach().float()
        return self._sum_over_processes(total) / batch_S.numel()

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        """Returns the mean loss of the held-out sequences; the same in every process."""
        total = torch.zeros((), device=self.device)
        own_S = self.held_out_S[self.rank :: self.num_processes]
        for chosen_B in split(own_S, self.schedule.micro_batch) if own_S.numel() else ():
            with self._precision():
                total += self.task.held_out_loss(chosen_B).float()
        return self._sum_over_processes(total) / self.held_out_S.numel()

    def _sum_over_processes(self, total: torch.Tensor) -> float:
        return float(self.accelerator.reduce(total, "sum"))

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.schedule.bf16)

    def _keep_if_best(self, loss: float) -> None:
        if self.schedule.keep == "last":
            self.best, self.best_step = loss, self.step
        elif loss < self.best:
            self.best, self.best_step = loss, self.step
            # on the CPU: a second copy of the model would not fit beside masters, gradients and moments
            self.best_masters = {name: master.detach().cpu().clone() for name, master in self.masters.items()}

    @torch.no_grad()
    def _set_masters(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.masters[name].copy_(value)

    def _tokens_per_second(self, seconds: float, steps: int) -> float:
        return steps * self.schedule.batch * self.task.tokens_per_sequence / max(seconds, 1e-9)

    def _note(self, seconds: float, steps: int) -> str:
        speed = self._tokens_per_second(seconds, steps)
        remaining = seconds / steps * (self.schedule.steps - self.step)
        clock = f"{remaining:.0f} s" if remaining < 120 else f"{remaining / 60:.0f} min"
        return f"loss {self.losses[-1]:.4g}, held-out {self.best:.4g}, {speed:,.0f} tokens/s, {clock} left"

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
            for name in ("step", "best_step"):
                tensors[name] = torch.tensor(getattr(self, name), dtype=torch.int64)
            for name in ("before", "best"):
                tensors[name] = torch.tensor(getattr(self, name), dtype=torch.float64)
            tensors |= trained_tensors(self.masters, self.adam)
            tensors |= {f"best:{name}": tensor for name, tensor in self.best_masters.items()}
            tensors |= {f"task:{name}": tensor for name, tensor in self.task.extra_state().items()}
            self.checkpoint.write(tensors)
        self.accelerator.wait_for_everyone()

    def _load(self) -> bool:
        """Returns whether there was a checkpoint to resume from."""
        tensors = self.checkpoint.read()
        if tensors is None:
            return False
        self.losses = tensors["losses"].tolist()
        for name in ("step", "best_step"):
            setattr(self, name, int(tensors[name]))
        for name in ("before", "best"):
            setattr(self, name, float(tensors[name]))
        restore_trained(self.masters, self.adam, tensors)
        self.best_masters = under("best", tensors)
        self.task.load_extra_state(under("task", tensors))
        return True


def _adamw(masters: Mapping[str, nn.Parameter], schedule: Schedule) -> torch.optim.AdamW:
    """Returns AdamW with weight decay on matrices only: norms and biases are no weights that decay should shrink."""
    matrices = [master for master in masters.values() if master.dim() > 1]
    vectors = [master for master in masters.values() if master.dim() <= 1]
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((matrices, schedule.weight_decay), (vectors, 0.0))
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=BETAS, eps=_EPSILON)
