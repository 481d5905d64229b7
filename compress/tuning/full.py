"""End-to-end tuning: trains all packed blocks at once until the packed model predicts what the dense model predicts.

The loss is KL(dense || packed) per token over the logits of the calibration sequences, as in the end-to-end fine-tuning
of AQLM (arXiv 2401.06118 App. A) and PV-tuning (arXiv 2405.14852). It trains what block tuning trains: continuous
planes, norms, biases; of additive codebooks also a small share of the codes in each step (`tuning.recoding`).

A killed run resumes from its last checkpoint and ends with the same bytes as an uninterrupted one: the order of the
sequences follows from seed and epoch, and nothing else is random. The state before tuning is a candidate, and the
held-out divergence that decides is that of the values as they are stored, so tuning never raises it.

Shape letters: S samples, T tokens, B sequences of one micro-batch, V vocabulary, N out, K in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from compress.models.blocks import split
from compress.tuning import recoding, sequences, trainable_planes
from compress.tuning.state import State
from compress.tuning.student import Student

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from compress.format.packed import PackedTensor
    from compress.progress import Progress
    from compress.tuning.settings import FullSettings


@dataclass(frozen=True, slots=True)
class TunedModel:
    """The tuned linears and vectors of a model, and what tuning did. Divergences are in nats per token, held-out."""

    packed: dict[str, PackedTensor] = field(repr=False)
    """All packed linears by name; unchanged, where no state was better than the first."""
    dense: dict[str, torch.Tensor] = field(repr=False)
    """Norms and biases by their names in the model, in the dtypes that they had in `student`."""
    before: float
    after: float
    steps: int
    """Steps that were run; the best of the evaluated states (or the first) was kept."""
    recoded: int
    """Code changes that were accepted."""
    diverged: bool
    """Whether tuning produced values that are not finite; the best state before that was kept."""


def fit(
    student: nn.Module,
    teacher: nn.Module,
    tokens_ST: torch.Tensor,
    settings: FullSettings,
    work_dir: Path,
    progress: Progress,
) -> TunedModel:
    """Returns the packed linears and vectors of `student`, tuned to `teacher`.

    Args:
        student: a model with packed linears, as `compress.load` returns it; must not be used afterwards.
        teacher: the dense model, not changed; everything is computed on its device.
        tokens_ST: int64 token ids; a part of the sequences is held out.
        settings: see `FullSettings`.
        work_dir: an existing folder for the checkpoint, `full-tuning.safetensors`; the caller removes it.
        progress: where the steps are reported.

    Memory: teacher, the planes and dense tensors of the student, 24 bytes for every trained number, the logits of
    `micro_batch` sequences four times over and the inputs of all linears for them. With additive codebooks four float32
    copies of their weights more.

    Raises:
        CalibrationError: fewer than two sequences.
        OutputError: the folder holds the checkpoint of another run, or cannot be written.
    """
    sequences.check_enough(len(tokens_ST), do="Raise --samples to 2 or more, or leave --tune out")
    return _FullTuning(student, teacher, tokens_ST, settings, work_dir).run(progress)


class _FullTuning:
    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        tokens_ST: torch.Tensor,
        settings: FullSettings,
        work_dir: Path,
    ):
        self.settings, self.tokens_ST = settings, tokens_ST
        self.device = next(teacher.parameters()).device
        self.student = Student(student.to(self.device))
        self.teacher = teacher.eval()
        self.recoder = recoding.Recoder(self.student, settings)
        self.adam = trainable_planes.optimizer(list(self.student.masters().values()), settings.rate)
        self.train_S, self.held_out_S = sequences.split_held_out(len(tokens_ST), settings.held_out, settings.seed)
        self.steps_per_epoch = -(-len(self.train_S) // settings.batch)
        self.steps = settings.epochs * self.steps_per_epoch
        self.state = State(work_dir, self.student, self.adam, self.recoder, [repr(settings), tokens_ST])

    def run(self, progress: Progress) -> TunedModel:
        settings, state = self.settings, self.state
        if not state.load():
            state.before = state.best = state.last = self._mean_divergence(self.held_out_S)
            state.keep()
        with progress.stage("Fitting all blocks", self.steps) as task:
            task.advance(state.step, f"held-out divergence {state.best:.4g}")
            while state.step < self.steps and state.waited < settings.patience and math.isfinite(state.last):
                self._step()
                task.advance(1, f"held-out divergence {state.best:.4g}")
            task.advance(self.steps - state.step)
        packed, dense = state.best_result
        diverged = not math.isfinite(state.last)
        return TunedModel(packed, dense, state.before, state.best, state.step, state.recoded, diverged)

    def _step(self) -> None:
        settings, state = self.settings, self.state
        self._backward(self._batch(state.step))
        # linear decay to zero, from the step number alone, so that a resumed run needs no scheduler state
        for group in self.adam.param_groups:
            group["lr"] = settings.rate * (1 - state.step / self.steps)
        self.adam.step()
        self.adam.zero_grad()
        self.recoder.accumulate()
        state.step += 1
        if self.recoder.layers and state.step % settings.recode_every == 0:
            # judged on the sequences of the next step, which no gradient in the sums comes from
            state.recoded += self.recoder.step(lambda: self._mean_divergence(self._batch(state.step)))
        if state.step % settings.evaluate_every == 0 or state.step == self.steps:
            state.judge(self._mean_divergence(self.held_out_S))
        if state.step % settings.checkpoint_every == 0:
            state.save()

    def _batch(self, step: int) -> torch.Tensor:
        epoch, position = divmod(step, self.steps_per_epoch)
        order_S = sequences.epoch_order(epoch, self.train_S, self.settings.seed)
        return split(order_S, self.settings.batch)[position]

    def _backward(self, batch_S: torch.Tensor) -> None:
        """Adds the gradient of the mean divergence over the batch to the masters."""
        tokens_in_batch = batch_S.numel() * self.tokens_ST.shape[1]
        for part_S in split(batch_S, self.settings.micro_batch):
            torch.autograd.backward(self._divergence_sum(part_S) / tokens_in_batch)

    @torch.no_grad()
    def _mean_divergence(self, chosen_S: torch.Tensor) -> float:
        """Returns the mean divergence per token over the chosen sequences, in nats."""
        total = sum(float(self._divergence_sum(part_S)) for part_S in split(chosen_S, self.settings.micro_batch))
        return total / (chosen_S.numel() * self.tokens_ST.shape[1])

    def _divergence_sum(self, part_S: torch.Tensor) -> torch.Tensor:
        """Returns KL(teacher || student), summed over the tokens of the sequences."""
        tokens_BT = self.tokens_ST[part_S].to(self.device)
        precision = torch.autocast(tokens_BT.device.type, torch.bfloat16, enabled=self.settings.bf16)
        with torch.no_grad(), precision:
            teacher_BTV = self.teacher(input_ids=tokens_BT, use_cache=False).logits.float().log_softmax(-1)
        with precision:
            student_BTV = self.student(tokens_BT).float().log_softmax(-1)
        return torch.nn.functional.kl_div(student_BTV, teacher_BTV, reduction="sum", log_target=True)
