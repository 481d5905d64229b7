"""Adaptive sparse training of a whole model: the training of `methods.ast`.

Shape letters: S sequences, B sequences of one call, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import CompressError, MethodError
from compress.methods import ast as method
from compress.methods.protocol import Trained
from compress.numerics import masks
from compress.runtime import skeleton
from compress.training import initial_masks, student, teacher, trainer
from compress.training.learned_masks import MaskTask
from compress.training.schedule import Schedule
from compress.training.sparse import SparseModel
from compress.training.task import ModelTask
from compress.training.trainable import block_linears
from compress.tuning import sequences

if TYPE_CHECKING:
    from pathlib import Path

    from compress.format.packed import PackedTensor
    from compress.methods.ast import Config
    from compress.models.linears import LinearRef
    from compress.progress import Progress


def train(
    student_model: nn.Module,
    teacher_model: nn.Module,
    tokens_ST: torch.Tensor,
    config: Config,
    work_dir: Path,
    progress: Progress,
) -> Trained:
    """Returns the student with n:m sparse linears: `packed` those of the blocks, `dense` everything else.

    Arguments and errors as in `training.student.train`.

    Memory: teacher, 17 bytes for every number of the student, one float32 copy of its linears more (the masked
    weights), and the logits of `micro_batch` sequences three times over.

    Raises:
        MethodError: also for a linear that is already packed, or whose width n:m or the blocks of SLoRB do not divide.
    """
    # with moving masks the last state is kept: the decay of pruned weights is annealed in, and masks settle at the end
    schedule = Schedule.of(config, rate=config.rate, keep="best" if config.learned else "last")

    def make_task(student_model: nn.Module, teacher_model: nn.Module) -> ModelTask:
        refs = _checked_linears(student_model, config)
        train_S, _ = sequences.split_held_out(len(tokens_ST), config.held_out, config.training_seed)
        initial = initial_masks.one_shot(student_model, refs, tokens_ST[train_S], config)
        predictions = teacher.LiveTeacher(teacher_model, tokens_ST)
        if config.learned:
            return MaskTask(student_model, initial, predictions, tokens_ST, config)
        return _SparseTask(SparseModel(student_model, initial, config.slorb), predictions, tokens_ST, config)

    return student.train(
        make_task, student_model, teacher_model, tokens_ST, schedule, config, work_dir, progress
    )  # fmt: skip


def _checked_linears(model: nn.Module, config: Config) -> list[LinearRef]:
    """Returns the linears of the blocks; raises MethodError, with its name, for one that cannot be trained sparse."""
    if packed := skeleton.packed_layers(model):
        raise MethodError(
            f"sparse training of a student with {len(packed)} packed linears",
            do="Put it before the stage that packs them",
            layer=next(iter(packed)),
        )
    refs = block_linears(model)
    for ref in refs:
        try:
            method.check(ref.shape, config)
        except CompressError as error:
            error.layer = ref.name
            raise
    return refs


class _SparseTask(ModelTask):
    def __init__(self, model: SparseModel, predictions: teacher.Teacher, tokens_ST: torch.Tensor, config: Config):
        super().__init__()
        self.model, self._teacher, self._tokens_ST, self._config = model, predictions, tokens_ST, config
        self.tokens_per_sequence = tokens_ST.shape[1]
        self._initial_masks = {name: mask.clone() for name, mask in model.masks().items()}
        self._flips: list[int] = []

    def masters(self) -> dict[str, nn.Parameter]:
        return self.model.masters()

    def starting_weights(self) -> list[torch.Tensor]:
        return [*self.model.masters().values(), *self.model.masks().values()]

    def result(self) -> tuple[dict[str, torch.Tensor], dict[str, PackedTensor]]:
        packed = {name: layer.packed(self._config.n, self._config.m) for name, layer in self.model.layers.items()}
        return self.model.dense(), packed

    def forward(self, chosen_B: torch.Tensor, step: int) -> torch.Tensor:
        return self._loss(chosen_B, stored=False)

    def held_out_loss(self, chosen_B: torch.Tensor) -> torch.Tensor:
        return self._loss(chosen_B, stored=True)

    def after_step(self, step: int, rate: float, adam: Mapping[Any, dict[str, torch.Tensor]]) -> None:
        """Decays the pruned weights, and every `refresh_every` steps chooses the masks again."""
        config = self._config
        strength = rate * masks.decay_at(step, config.steps, config.decay, config.ramp)
        for layer in self.model.layers.values() if strength else ():
            state = adam[layer.weight]
            # AdamW's second moment starts at zero; the same correction as in its own step
            bias_correction = 1 - trainer.BETAS[1] ** float(state["step"])
            masks.decay(layer.weight, layer.mask, (state["exp_avg_sq"] / bias_correction).sqrt_(), strength)
        if config.refresh_every and (step + 1) % config.refresh_every == 0:
            self._flips.append(sum(layer.refresh(config.n, config.m) for layer in self.model.layers.values()))

    def extra_state(self) -> dict[str, torch.Tensor]:
        return {"flips": torch.tensor(self._flips, dtype=torch.int64)} | self.model.masks()

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._flips = tensors["flips"].tolist()
        self.model.load_masks(tensors)

    def report(self) -> dict[str, Any]:
        """Returns how many kept weights were exchanged, as shares of all: at every refresh, and from start to end."""
        final = self.model.masks()
        kept = sum(int(mask.sum()) for mask in final.values())
        moved = sum(masks.flipped(self._initial_masks[name].to(mask.device), mask) for name, mask in final.items())
        return {"flips": [float(f"{count / kept:.4g}") for count in self._flips], "moved": float(f"{moved / kept:.4g}")}

    def _loss(self, chosen_B: torch.Tensor, *, stored: bool) -> torch.Tensor:
        tokens_BT = self._tokens_ST[chosen_B].to(next(self.model.parameters()).device)
        output = self.model(tokens_BT, stored=stored)
        return student.kl_and_cross_entropy(
            output, self._teacher(chosen_B), tokens_BT,
            loss="kl", temperature=self._config.temperature, ce_weight=1 - self._config.kl_weight,
        )  # fmt: skip
