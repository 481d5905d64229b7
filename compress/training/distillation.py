"""Distillation of a whole model: the lesson of `methods.distill`.

Shape letters: S sequences, B sequences of one call, T tokens, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import MethodError
from compress.methods.distill import RATES
from compress.training import losses, teacher, trainable, trainer
from compress.training.schedule import Schedule
from compress.training.trainer import Trained

if TYPE_CHECKING:
    from pathlib import Path

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
    """Returns what distillation made of the student.

    Args:
        student_model: a causal language model; with `train='packed'` one with packed linears, as `compress.load` gives
            it. It is taken over and must not be used after.
        teacher_model: a dense one with the same vocabulary; moved to the device, otherwise not changed.
        tokens_ST: int64 token ids; a part of the sequences only judges.
        config: options of the method.
        work_dir: an existing folder for checkpoints and kept shares of the teacher; whoever gave it removes it.
        progress: where the steps are reported to.

    Memory: teacher, student in float32, 16 bytes more for every number that is trained, and the logits of
    `micro_batch` sequences three times over.

    Raises:
        MethodError: the teacher has another vocabulary, the student cannot be trained that way, the hidden states do
            not match, or the loss is not finite (the step is named, the state before it is kept).
        CalibrationError: fewer than two sequences.
        OutputError: the folder holds the checkpoint of another run, or cannot be written.
    """
    from accelerate import Accelerator

    teacher.check_vocabularies(student_model, teacher_model)
    rate = RATES[config.train] if config.rate is None else config.rate
    schedule = Schedule(
        steps=config.steps, rate=rate, batch=config.batch, micro_batch=config.micro_batch, warmup=config.warmup,
        weight_decay=0.0 if config.train == "packed" else config.weight_decay, clip=config.clip,
        checkpoint_every=config.checkpoint_every, evaluate_every=config.evaluate_every, held_out=config.held_out,
        bf16=config.bf16, seed=config.training_seed,
    )  # fmt: skip
    device = Accelerator().device
    teacher_model = teacher_model.to(device).eval()
    if config.top_k:
        teacher.keep(
            teacher_model, tokens_ST, work_dir, progress, k=config.top_k, temperature=config.temperature,
            micro_batch=config.micro_batch, precision=partial(torch.autocast, device.type, torch.bfloat16, config.bf16),
        )  # fmt: skip
    pupil = trainable.enrol(student_model.to(device), config)
    asked = (
        teacher.Kept(work_dir, device)
        if config.top_k
        else teacher.Live(teacher_model, tokens_ST, hidden=config.hidden_weight > 0)
    )
    lesson = _Distillation(pupil, asked, tokens_ST, config)
    identity: list[str | torch.Tensor] = [
        repr(config),
        tokens_ST,
        *pupil.start(),
        *(p.detach() for p in teacher_model.parameters()),
    ]
    outcome = trainer.train(lesson, len(tokens_ST), schedule, work_dir, identity, progress)
    dense, packed = pupil.result()
    return Trained(dense, packed, outcome.report(), outcome.timing())


class _Distillation(trainer.Lesson):
    def __init__(self, pupil: trainable.Pupil, asked: teacher.Teacher, tokens_ST: torch.Tensor, config: Config):
        super().__init__()
        self.module, self._pupil, self._asked = pupil.module, pupil, asked
        self._tokens_ST, self._config = tokens_ST, config
        self.tokens_per_sequence = tokens_ST.shape[1]

    def masters(self) -> dict[str, nn.Parameter]:
        return self._pupil.masters()

    def forward(self, chosen_B: torch.Tensor, step: int) -> torch.Tensor:
        config = self._config
        tokens_BT = self._tokens_ST[chosen_B].to(next(iter(self.masters().values())).device)
        wanted = self._asked(chosen_B)
        output = self._pupil(tokens_BT, hidden=config.hidden_weight > 0)
        lost = combined(
            output, wanted, tokens_BT,
            loss=config.loss, temperature=config.temperature, ce_weight=config.ce_weight,
        )  # fmt: skip
        if config.hidden_weight:
            found = teacher.after_blocks(output)
            lost = lost + config.hidden_weight * losses.hidden_distance(found, wanted.hidden) / tokens_BT.shape[1]
        return lost


def combined(
    output: Any, wanted: teacher.Wanted, tokens_BT: torch.Tensor, *, loss: str, temperature: float, ce_weight: float
) -> torch.Tensor:
    """Returns divergence and cross-entropy by their shares, each a mean over tokens, summed over sequences.

    Args:
        output: of the student, with logits [B, T, V].
        wanted: what the teacher says of the same sequences.
        loss: `kl` or `reverse_kl`.
        ce_weight: share of the cross-entropy, 0 to 1.
    """
    found_BTV, length = output.logits, tokens_BT.shape[1]
    lost = torch.zeros((), device=found_BTV.device)
    if ce_weight < 1:
        divergence = _divergence(found_BTV.flatten(0, 1), wanted, temperature, reverse=loss == "reverse_kl")
        lost = lost + (1 - ce_weight) * divergence / length
    if ce_weight > 0:
        if length < 2:
            raise MethodError("sequences of one token, which has no next one", do="Raise --seq-len to 2 or more")
        next_T = tokens_BT[:, 1:].flatten()
        lost = lost + ce_weight * losses.cross_entropy(found_BTV[:, :-1].flatten(0, 1), next_T) / (length - 1)
    return lost


def _divergence(found_TV: torch.Tensor, wanted: teacher.Wanted, temperature: float, *, reverse: bool) -> torch.Tensor:
    if wanted.shares is not None:
        places_Tk, shares_Tk = (tensor.flatten(0, 1) for tensor in wanted.shares)
        return losses.top_kl(found_TV, places_Tk, shares_Tk, temperature, reverse=reverse)
    assert wanted.logits_BTV is not None
    divergence = losses.reverse_kl if reverse else losses.forward_kl
    return divergence(found_TV, wanted.logits_BTV.flatten(0, 1), temperature)
