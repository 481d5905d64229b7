"""End-to-end tuning: all blocks are fitted at once until the packed model says what the dense one says.

The loss is KL(dense || packed) per token over the logits of the calibration sequences, as in the end-to-end fitting of
AQLM (arXiv 2401.06118 App. A) and PV-tuning (arXiv 2405.14852). What moves is what block tuning moves: real planes,
norms, biases; of additive codebooks also a small share of the codes in each step (`tuning.recoding`).

A run that is killed goes on from its last checkpoint and ends with the same bytes as one that was not: the order of the
sequences follows from seed and epoch, nothing else is drawn. The state before fitting is a candidate, the held-out
divergence that decides is that of the values as they are stored: fitting never makes it worse.

Shape letters: S samples, T tokens, B sequences of one micro-batch, V vocabulary, N out, K in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import CalibrationError
from compress.models.blocks import split
from compress.tuning import recoding, trainable_planes
from compress.tuning.state import State
from compress.tuning.student import Student

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from compress.format.packed import PackedTensor
    from compress.progress import Progress
    from compress.tuning.settings import FullSettings


@dataclass(frozen=True, slots=True)
class FullTuned:
    """What fitting made of a model. Divergences are in nats per token, held-out."""

    packed: dict[str, PackedTensor] = field(repr=False)
    """All packed linears by name; as they were given, where nothing better was found."""
    dense: dict[str, torch.Tensor] = field(repr=False)
    """Norms and biases by their names in the model, in the dtypes that they had in `student`."""
    before: float
    after: float
    steps: int
    """Steps that were run; the best state among those looked at (or the first) is what was kept."""
    recoded: int
    """Changes of codes that were accepted on the way."""
    diverged: bool
    """Whether fitting ran into values that are not finite; the best state before that was kept."""


def fit(
    student: nn.Module,
    teacher: nn.Module,
    tokens_ST: torch.Tensor,
    settings: FullSettings,
    work_dir: Path,
    progress: Progress,
) -> FullTuned:
    """Returns the packed linears and vectors of `student`, fitted to `teacher`.

    Args:
        student: a model with packed linears, as `compress.load` gives it; it is taken over and must not be used after.
        teacher: the dense model; moved to the device, otherwise not changed.
        tokens_ST: int64 token ids; a part of the sequences only judges.
        settings: see there.
        work_dir: an existing folder for the checkpoint, `full-tuning.safetensors`; whoever gave it removes it.
        progress: where the steps are reported to.

    Memory: teacher, the planes and dense tensors of the student, 24 bytes for every real number that is fitted, the
    logits of `micro_batch` sequences four times over and the inputs of all linears for them. With additive codebooks
    four float32 copies of their weights more.

    Raises:
        CalibrationError: fewer than two sequences: one at least must be left to judge.
        OutputError: the folder holds the checkpoint of another run, or cannot be written.
    """
    if len(tokens_ST) < 2:
        raise CalibrationError(
            "one calibration sequence, and fitting keeps at least one back to judge by",
            do="Raise --samples to 2 or more, or leave --tune out",
        )
    from accelerate import Accelerator

    # its precision would hold for the whole process: what runs in bfloat16 is said here, where it is
    fitting = _Fitting(Accelerator(), student, teacher, tokens_ST, settings, State.path(work_dir))
    return fitting.run(progress)


class _Fitting:
    def __init__(
        self,
        accelerator: Any,
        student: nn.Module,
        teacher: nn.Module,
        tokens_ST: torch.Tensor,
        settings: FullSettings,
        path: Path,
    ):
        self.accelerator, self.settings, self.tokens_ST = accelerator, settings, tokens_ST
        self.student = Student(student.to(accelerator.device))
        self.teacher = teacher.to(accelerator.device).eval()
        self.recoder = recoding.Recoder(self.student, settings)
        self.moves = self.student.moves()
        self.adam = trainable_planes.optimizer(self.moves, settings.rate)
        self.train_S, self.held_S = trainable_planes.held_out(len(tokens_ST), settings.held_out, settings.seed)
        self.steps_per_epoch = -(-len(self.train_S) // settings.batch)
        self.steps = settings.epochs * self.steps_per_epoch
        self.state = State(path, self.student, self.adam, self.recoder, [repr(settings), tokens_ST])

    def run(self, progress: Progress) -> FullTuned:
        settings, state = self.settings, self.state
        if not state.load():
            state.before = state.best = state.last = self._divergence(self.held_S)
            state.keep()
        with progress.stage("Fitting all blocks", self.steps) as task:
            task.advance(state.step, f"held-out divergence {state.best:.4g}")
            while state.step < self.steps and state.waited < settings.patience and math.isfinite(state.last):
                batch_S = self._batch(state.step)
                self._backward(batch_S)
                for group in self.adam.param_groups:
                    group["lr"] = settings.rate * (1 - state.step / self.steps)
                self.adam.step()
                self.adam.zero_grad()
                self.recoder.gather()
                state.step += 1
                if self.recoder.layers and state.step % settings.recode_every == 0:
                    # judged by the sequences of the next step, which the gradient has not seen
                    state.recoded += self.recoder.step(lambda: self._divergence(self._batch(state.step)))
                if state.step % settings.evaluate_every == 0 or state.step == self.steps:
                    state.judge(self._divergence(self.held_S))
                if state.step % settings.checkpoint_every == 0:
                    state.save()
                task.advance(1, f"held-out divergence {state.best:.4g}")
            task.advance(self.steps - state.step)
        packed, dense = state.kept
        diverged = not math.isfinite(state.last)
        return FullTuned(packed, dense, state.before, state.best, state.step, state.recoded, diverged)

    def _batch(self, step: int) -> torch.Tensor:
        epoch, place = divmod(step, self.steps_per_epoch)
        order_S = trainable_planes.order_of(epoch, self.train_S, self.settings.seed)
        return split(order_S, self.settings.batch)[place]

    def _backward(self, batch_S: torch.Tensor) -> None:
        """Adds the gradient of the mean divergence over the batch to the masters."""
        whole = batch_S.numel() * self.tokens_ST.shape[1]
        for part_S in split(batch_S, self.settings.micro_batch):
            self.accelerator.backward(self._lost(part_S) / whole)

    @torch.no_grad()
    def _divergence(self, chosen_S: torch.Tensor) -> float:
        """Returns the mean divergence per token over the chosen sequences, in nats."""
        lost = sum(float(self._lost(part_S)) for part_S in split(chosen_S, self.settings.micro_batch))
        return lost / (chosen_S.numel() * self.tokens_ST.shape[1])

    def _lost(self, part_S: torch.Tensor) -> torch.Tensor:
        """Returns KL(teacher || student), summed over the tokens of some sequences."""
        tokens_BT = self.tokens_ST[part_S].to(self.accelerator.device)
        precision = torch.autocast(tokens_BT.device.type, torch.bfloat16, enabled=self.settings.bf16)
        with torch.no_grad(), precision:
            wanted_BTV = self.teacher(input_ids=tokens_BT, use_cache=False).logits.float().log_softmax(-1)
        with precision:
            found_BTV = self.student(tokens_BT).float().log_softmax(-1)
        return torch.nn.functional.kl_div(found_BTV, wanted_BTV, reduction="sum", log_target=True)
