"""Losses of a student against its teacher: divergences of the next token, cross-entropy, distance of hidden states.

Every function returns a sum over tokens. Whatever has the size of the vocabulary is computed for a chunk of tokens at a
time, and again in the backward pass, so beside the logits there is only one chunk of float32 copies in memory.

The temperature τ divides the logits of both sides, and the divergence is multiplied by τ², which keeps the size of its
gradient (Hinton et al., arXiv 1503.02531 §2).

Shape letters: T tokens, R tokens of one chunk, V vocabulary, k tokens kept of the teacher, B sequences, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from compress.errors import MethodError
from compress.models.blocks import split

CHUNK_LOGITS = 1 << 24
"""Logits in one chunk of tokens at most (64 MiB in float32); a chunk has at least one token."""
_SMALLEST_SQUARE = 1e-12
"""Mean square below which a teacher's hidden states count as zero, which keeps the relative distance finite."""


def forward_kl(student_TV: torch.Tensor, teacher_TV: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Returns τ² Σ KL(teacher || student) in nats, 0-d, for logits of student and teacher, [T, V]."""

    def divergence(student_RV: torch.Tensor, teacher_RV: torch.Tensor) -> torch.Tensor:
        return _kl(_log_probs(teacher_RV, temperature), _log_probs(student_RV, temperature))

    return temperature**2 * _sum_over_chunks(divergence, student_TV, teacher_TV)


def reverse_kl(student_TV: torch.Tensor, teacher_TV: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Returns τ² Σ KL(student || teacher) in nats, 0-d, for logits of student and teacher, [T, V]."""

    def divergence(student_RV: torch.Tensor, teacher_RV: torch.Tensor) -> torch.Tensor:
        return _kl(_log_probs(student_RV, temperature), _log_probs(teacher_RV, temperature))

    return temperature**2 * _sum_over_chunks(divergence, student_TV, teacher_TV)


def top_log_probs(logits_TV: torch.Tensor, k: int, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the k likeliest tokens, int32 [T, k], and log-probabilities, float32 [T, k + 1].

    The last log-probability is that of all other tokens together, so that the k + 1 numbers are a distribution:
    truncated and renormalised, the teacher would seem more certain than it is.
    """
    log_TV = _log_probs(logits_TV, temperature)
    top_Tk, token_ids_Tk = log_TV.topk(k, dim=-1)
    return token_ids_Tk.to(torch.int32), torch.cat([top_Tk, _log_prob_of_others(log_TV, token_ids_Tk)], -1)


def top_kl(
    student_TV: torch.Tensor,
    token_ids_Tk: torch.Tensor,
    teacher_Tk: torch.Tensor,
    temperature: float,
    *,
    reverse: bool,
) -> torch.Tensor:
    """Returns τ² Σ KL in nats, 0-d, over the k + 1 buckets that `top_log_probs` made of the teacher.

    It is never above the divergence over the whole vocabulary, and equals it where the student divides the last bucket
    as the teacher does.

    Args:
        student_TV: logits of the student.
        token_ids_Tk: the teacher's likeliest tokens, int32 [T, k].
        teacher_Tk: their log-probabilities and that of all others, float32 [T, k + 1], at the same temperature.
        temperature: τ.
        reverse: whether it is KL(student || teacher) instead of KL(teacher || student).
    """

    def divergence(student_RV: torch.Tensor, token_ids_Rk: torch.Tensor, teacher_Rk: torch.Tensor) -> torch.Tensor:
        log_RV, token_ids_Rk = _log_probs(student_RV, temperature), token_ids_Rk.long()
        student_Rk = torch.cat([log_RV.gather(-1, token_ids_Rk), _log_prob_of_others(log_RV, token_ids_Rk)], -1)
        return _kl(student_Rk, teacher_Rk) if reverse else _kl(teacher_Rk, student_Rk)

    return temperature**2 * _sum_over_chunks(divergence, student_TV, token_ids_Tk, teacher_Tk)


def cross_entropy(student_TV: torch.Tensor, next_T: torch.Tensor) -> torch.Tensor:
    """Returns Σ −log p(next token) in nats, 0-d, for logits [T, V] and the next tokens, int64 [T]."""

    def negative_log_likelihood(student_RV: torch.Tensor, next_R: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(student_RV.float(), next_R, reduction="sum")

    return _sum_over_chunks(negative_log_likelihood, student_TV, next_T)


def hidden_distance(student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the squared distance of hidden states, 0-d: a sum over tokens, a mean over layers.

    Each layer counts in units of the mean square of the teacher's states there, as in SquareHead (arXiv 2310.06927):
    otherwise the layers with the largest states would dominate the sum.

    Args:
        student, teacher: hidden states [B, T, H] after every block.

    Raises:
        MethodError: the two differ in depth or width.
    """
    if [layer.shape[2:] for layer in student] != [layer.shape[2:] for layer in teacher]:
        (depth, width), (teacher_depth, teacher_width) = (
            (len(side), side[0].shape[2] if side else 0) for side in (student, teacher)
        )
        raise MethodError(
            f"hidden states of {depth} layers, {width} wide, against {teacher_depth} of {teacher_width} of the teacher",
            allowed="a student with as many layers of the same hidden size",
            do="Leave hidden_weight at 0",
        )
    distance = torch.zeros((), device=student[0].device)
    for student_BTH, teacher_BTH in zip(student, teacher, strict=True):
        teacher_BTH = teacher_BTH.float()
        scale = teacher_BTH.square().mean().clamp_min(_SMALLEST_SQUARE)
        distance = distance + (student_BTH.float() - teacher_BTH).square().mean(-1).sum() / scale
    return distance / len(student)


def _log_probs(logits_RV: torch.Tensor, temperature: float) -> torch.Tensor:
    return (logits_RV.float() / temperature).log_softmax(-1)


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Returns Σ exp(p) (p − q) for log-probabilities; a bucket to which p gives no probability adds nothing."""
    return functional.kl_div(q, p, reduction="sum", log_target=True)


def _log_prob_of_others(log_RV: torch.Tensor, token_ids_Rk: torch.Tensor) -> torch.Tensor:
    """Returns the log-probability [R, 1] of all tokens but those in `token_ids_Rk`."""
    return log_RV.scatter(-1, token_ids_Rk, -torch.inf).logsumexp(-1, keepdim=True)


def _sum_over_chunks(loss: Callable[..., torch.Tensor], logits_TV: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """Returns the sum of `loss` over chunks of tokens, each computed again in the backward pass."""
    size = max(1, CHUNK_LOGITS // logits_TV.shape[-1])
    total = torch.zeros((), device=logits_TV.device)
    for chunk in zip(*(split(tensor, size) for tensor in (logits_TV, *others)), strict=True):
        total = total + checkpoint(loss, *chunk, use_reentrant=False, preserve_rng_state=False)
    return total
