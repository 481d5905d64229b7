"""Trains a student towards a teacher: what distillation, sparse training and learned masks have in common.

Shape letters: S sequences, B sequences of one call, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import MethodError
from compress.methods.protocol import Trained
from compress.training import losses, trainer
from compress.training.task import ModelTask
from compress.training.teacher import TeacherOutput, check_vocabularies
from compress.tuning import sequences

if TYPE_CHECKING:
    from pathlib import Path

    from compress.progress import Progress
    from compress.training.schedule import Schedule


def train(
    make_task: Callable[[nn.Module, nn.Module], ModelTask],
    student_model: nn.Module,
    teacher_model: nn.Module,
    tokens_ST: torch.Tensor,
    schedule: Schedule,
    options: Any,
    work_dir: Path,
    progress: Progress,
) -> Trained:
    """Returns the trained tensors of the student.

    Args:
        make_task: makes the task from student and teacher, which are on one device and in evaluation mode.
        student_model: a causal language model, on the device where one process trains; must not be used afterwards.
            Of several processes each trains on the device that accelerate gives it.
        teacher_model: a dense one with the same vocabulary; moved to that device, otherwise not changed.
        tokens_ST: int64 token ids; a part of the sequences is held out.
        schedule: see `Schedule`.
        options: those of the method; a run with other options does not resume.
        work_dir: an existing folder for checkpoints; the caller removes it.
        progress: where the steps are reported.

    Raises:
        MethodError: the teacher has another vocabulary, or the loss is not finite (the step is named, the state before
            it is kept).
        CalibrationError: fewer than two sequences.
        OutputError: the folder holds the checkpoint of another run, or cannot be written.
    """
    from accelerate import Accelerator

    sequences.check_enough(len(tokens_ST))
    check_vocabularies(student_model, teacher_model)
    device = trainer.device_of(Accelerator(), student_model)
    teacher_model = teacher_model.to(device).eval()
    task = make_task(student_model.to(device).eval(), teacher_model)
    teacher_weights = [parameter.detach() for parameter in teacher_model.parameters()]
    identity: list[str | torch.Tensor] = [repr(options), tokens_ST, *task.starting_weights(), *teacher_weights]
    outcome = trainer.train(task, len(tokens_ST), schedule, work_dir, identity, progress)
    dense, packed = task.result()
    return Trained(dense, packed, outcome.report() | task.report(), outcome.timing())


def kl_and_cross_entropy(
    output: Any, teacher: TeacherOutput, tokens_BT: torch.Tensor, *, loss: str, temperature: float, ce_weight: float
) -> torch.Tensor:
    """Returns the weighted sum of divergence and cross-entropy, 0-d: means over tokens, summed over sequences.

    Args:
        output: the student's output, with logits [B, T, V].
        teacher: the teacher's predictions for the same sequences.
        tokens_BT: the sequences.
        loss: `kl` or `reverse_kl`.
        temperature: divides the logits of both in the divergence.
        ce_weight: share of the cross-entropy with the text, 0 to 1; the divergence has the rest.
    """
    logits_BTV, length = output.logits, tokens_BT.shape[1]
    total = torch.zeros((), device=logits_BTV.device)
    if ce_weight < 1:
        divergence = _divergence(logits_BTV.flatten(0, 1), teacher, temperature, reverse=loss == "reverse_kl")
        total = total + (1 - ce_weight) * divergence / length
    if ce_weight > 0:
        if length < 2:
            raise MethodError("cross-entropy needs sequences of 2 tokens or more; got 1", do="Raise --seq-len")
        next_T = tokens_BT[:, 1:].flatten()
        cross_entropy = losses.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), next_T)
        total = total + ce_weight * cross_entropy / (length - 1)
    return total


def _divergence(student_TV: torch.Tensor, teacher: TeacherOutput, temperature: float, *, reverse: bool) -> torch.Tensor:
    if teacher.top is not None:
        token_ids_Tk, log_probs_Tk = (tensor.flatten(0, 1) for tensor in teacher.top)
        return losses.top_kl(student_TV, token_ids_Tk, log_probs_Tk, temperature, reverse=reverse)
    assert teacher.logits_BTV is not None
    divergence = losses.reverse_kl if reverse else losses.forward_kl
    return divergence(student_TV, teacher.logits_BTV.flatten(0, 1), temperature)
