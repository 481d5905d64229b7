"""Distils a teacher into a dense or packed student: the training of `methods.distill`.

Shape letters: S sequences, B sequences of one call, T tokens.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.methods.distill import RATES
from compress.methods.protocol import Trained
from compress.training import losses, student, teacher, trainable
from compress.training.schedule import Schedule
from compress.training.task import ModelTask

if TYPE_CHECKING:
    from pathlib import Path

    from compress.format.packed import PackedTensor
    from compress.methods.distill import Config
    from compress.progress import Progress


def train(
    student_model: nn.Module,
    teacher_model: nn.Module,
    tokens_ST: torch.Tensor,
    config: Config,
    work_dir: Path,
    progress: Progress,
) -> Trained:
    """Returns the trained tensors of the student; arguments and errors as in `training.student.train`.

    With `train='packed'` the student has packed linears, as `compress.load` returns it; otherwise it is dense.

    Memory: teacher, student in float32, 16 bytes more for every trained number, and the logits of `micro_batch`
    sequences three times over.

    Raises:
        MethodError: also where the student cannot be trained that way, or its hidden states do not match the teacher's.
    """
    rate = RATES[config.train] if config.rate is None else config.rate
    # offsets of planes are measured from the packed value: decay would pull the weights back to where they started
    schedule = Schedule.of(config, rate=rate, weight_decay=0.0 if config.train == "packed" else None)

    def make_task(student_model: nn.Module, teacher_model: nn.Module) -> ModelTask:
        trained = trainable.make_trainable(student_model, config)
        predictions = _teacher(teacher_model, tokens_ST, config, work_dir, progress)
        return _Distillation(trained, predictions, tokens_ST, config)

    return student.train(
        make_task, student_model, teacher_model, tokens_ST, schedule, config, work_dir, progress
    )  # fmt: skip


def _teacher(
    model: nn.Module, tokens_ST: torch.Tensor, config: Config, work_dir: Path, progress: Progress
) -> teacher.Teacher:
    if not config.top_k:
        return teacher.LiveTeacher(model, tokens_ST, hidden=config.hidden_weight > 0)
    device = next(model.parameters()).device
    teacher.cache_predictions(
        model, tokens_ST, work_dir, progress, k=config.top_k, temperature=config.temperature,
        micro_batch=config.micro_batch, precision=partial(torch.autocast, device.type, torch.bfloat16, config.bf16),
    )  # fmt: skip
    return teacher.CachedTeacher(work_dir, device)


class _Distillation(ModelTask):
    def __init__(
        self, trained: trainable.Trainable, predictions: teacher.Teacher, tokens_ST: torch.Tensor, config: Config
    ):
        super().__init__()
        self.module, self._trained, self._teacher = trained.module, trained, predictions
        self._tokens_ST, self._config = tokens_ST, config
        self.tokens_per_sequence = tokens_ST.shape[1]

    def masters(self) -> dict[str, nn.Parameter]:
        return self._trained.masters()

    def starting_weights(self) -> list[torch.Tensor]:
        return self._trained.starting_weights()

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        return self._trained.result()

    def forward(self, chosen_B: torch.Tensor, step: int) -> torch.Tensor:
        config = self._config
        tokens_BT = self._tokens_ST[chosen_B].to(next(iter(self.masters().values())).device)
        predicted = self._teacher(chosen_B)
        output = self._trained(tokens_BT, hidden=config.hidden_weight > 0)
        loss = student.kl_and_cross_entropy(
            output, predicted, tokens_BT,
            loss=config.loss, temperature=config.temperature, ce_weight=config.ce_weight,
        )  # fmt: skip
        if config.hidden_weight:
            distance = losses.hidden_distance(teacher.after_blocks(output), predicted.hidden)
            loss = loss + config.hidden_weight * distance / tokens_BT.shape[1]
        return loss
