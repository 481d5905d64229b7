"""Adaptive sparse training of a whole model: the lesson of `methods.ast`.

Shape letters: S sequences, B sequences of one call, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import CompressError, MethodError
from compress.methods import ast as method
from compress.numerics import masks
from compress.runtime import skeleton
from compress.training import distillation, initial_masks, teacher, trainer
from compress.training.learned_masks import Masks
from compress.training.schedule import Schedule
from compress.training.sparse import SparseModel
from compress.training.trainable import block_linears
from compress.training.trainer import Trained
from compress.tuning import trainable_planes

if TYPE_CHECKING:
    from pathlib import Path

    from compress.methods.ast import Config
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

    Args:
        student_model: a dense causal language model; taken over, must not be used after.
        teacher_model: a dense one with the same vocabulary; moved to the device, otherwise not changed.
        tokens_ST: int64 token ids; a part of the sequences only judges.
        config: options of the method.
        work_dir: an existing folder for checkpoints; whoever gave it removes it.
        progress: where the steps are reported to.

    Memory: teacher, 17 bytes for every number of the student, one float32 copy of its linears more (the masked
    weights), and the logits of `micro_batch` sequences three times over.

    Raises:
        MethodError: a linear that is packed already, or that n:m or blocks of SLoRB do not divide (named), a teacher
            with another vocabulary, a loss that is not finite (the step is named, the state before it is kept).
        CalibrationError: fewer than two sequences.
        OutputError: the folder holds the checkpoint of another run, or cannot be written.
    """
    from accelerate import Accelerator

    teacher.check_vocabularies(student_model, teacher_model)
    if already := skeleton.packed_layers(student_model):
        raise MethodError(
            f"sparse training of a student with {len(already)} packed linears",
            do="Put it before the stage that packs them",
            layer=next(iter(already)),
        )
    refs = block_linears(student_model)
    for ref in refs:
        try:
            method.check(ref.shape, config)
        except CompressError as error:
            error.layer = ref.name
            raise
    schedule = Schedule(
        steps=config.steps, rate=config.rate, batch=config.batch, micro_batch=config.micro_batch,
        warmup=config.warmup, weight_decay=config.weight_decay, clip=config.clip,
        checkpoint_every=config.checkpoint_every, evaluate_every=config.evaluate_every, held_out=config.held_out,
        keep="best" if config.learned else "last", bf16=config.bf16, seed=config.training_seed,
    )  # fmt: skip
    device = Accelerator().device
    student_model, teacher_model = student_model.to(device).eval(), teacher_model.to(device).eval()
    train_S, _ = trainable_planes.held_out(len(tokens_ST), config.held_out, config.training_seed)
    chosen = initial_masks.one_shot(student_model, refs, tokens_ST[train_S], config)
    asked = teacher.Live(teacher_model, tokens_ST)
    identity: list[str | torch.Tensor] = [repr(config), tokens_ST, *(p.detach() for p in teacher_model.parameters())]
    if config.learned:
        masks = Masks(student_model, chosen, asked, tokens_ST, config)
        identity += [*masks.state_dict().values()]
        outcome = trainer.train(masks, len(tokens_ST), schedule, work_dir, identity, progress)
        return Trained({}, masks.packed(), outcome.report() | masks.account(), outcome.timing())
    model = SparseModel(student_model, chosen, config.slorb)
    lesson = _Sparse(model, asked, tokens_ST, config)
    identity += [*model.masters().values(), *model.masks().values()]
    outcome = trainer.train(lesson, len(tokens_ST), schedule, work_dir, identity, progress)
    packed = {name: layer.packed(config.n, config.m) for name, layer in model.layers.items()}
    return Trained(model.dense(), packed, outcome.report() | lesson.account(), outcome.timing())


class _Sparse(trainer.Lesson):
    def __init__(self, model: SparseModel, asked: teacher.Teacher, tokens_ST: torch.Tensor, config: Config):
        super().__init__()
        self.model, self._asked, self._tokens_ST, self._config = model, asked, tokens_ST, config
        self.tokens_per_sequence = tokens_ST.shape[1]
        self._started = {name: mask.clone() for name, mask in model.masks().items()}
        self._flips: list[int] = []

    def masters(self) -> dict[str, nn.Parameter]:
        return self.model.masters()

    def forward(self, chosen_B: torch.Tensor, step: int) -> torch.Tensor:
        return self._lost(chosen_B, stored=False)

    def judge(self, chosen_B: torch.Tensor) -> torch.Tensor:
        return self._lost(chosen_B, stored=True)

    def stepped(self, step: int, rate: float, adam: Mapping[Any, dict[str, torch.Tensor]]) -> None:
        config = self._config
        strength = rate * masks.decay_at(step, config.steps, config.decay, config.ramp)
        for layer in self.model.layers.values() if strength else ():
            state = adam[layer.weight]
            corrected = 1 - trainer.BETAS[1] ** float(state["step"])
            masks.decay(layer.weight, layer.mask, (state["exp_avg_sq"] / corrected).sqrt_(), strength)
        if config.refresh_every and (step + 1) % config.refresh_every == 0:
            self._flips.append(sum(layer.refresh(config.n, config.m) for layer in self.model.layers.values()))

    def memory(self) -> dict[str, torch.Tensor]:
        return {"flips": torch.tensor(self._flips, dtype=torch.int64)} | self.model.masks()

    def remember(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._flips = tensors["flips"].tolist()
        self.model.take_masks(tensors)

    def account(self) -> dict[str, Any]:
        """Returns how much the masks have moved: shares of the kept weights, at every choice and in all."""
        after = self.model.masks()
        kept = sum(int(mask.sum()) for mask in after.values())
        moved = sum(masks.flipped(self._started[name].to(mask.device), mask) for name, mask in after.items())
        return {"flips": [float(f"{count / kept:.4g}") for count in self._flips], "moved": float(f"{moved / kept:.4g}")}

    def _lost(self, chosen_B: torch.Tensor, *, stored: bool) -> torch.Tensor:
        config = self._config
        tokens_BT = self._tokens_ST[chosen_B].to(next(self.model.parameters()).device)
        output = self.model(tokens_BT, stored=stored)
        return distillation.combined(
            output, self._asked(chosen_B), tokens_BT,
            loss="kl", temperature=config.temperature, ce_weight=1 - config.kl_weight,
        )  # fmt: skip
