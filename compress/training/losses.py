"""What a student loses against its teacher: divergences of the next token, cross-entropy, distance of hidden states.

Every function returns a sum over tokens. What the vocabulary makes large is worked on a stretch of tokens at a time and
again in the backward pass, so beside the logits themselves only one stretch of float32 copies is in memory.

Temperature τ divides the logits of both sides, and the divergence is multiplied by τ², which keeps its gradient of one
size (Hinton et al., arXiv 1503.02531 §2).

Shape letters: T tokens, R tokens of one stretch, V vocabulary, k tokens kept of the teacher, B sequences, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from compress.errors import MethodError
from compress.models.blocks import split

STRETCH_NUMBERS = 1 << 24
"""Logits of one stretch of tokens at most (64 MiB in float32); at least one token is taken."""


def forward_kl(found_TV: torch.Tensor, wanted_TV: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Returns τ² Σ KL(teacher || student) in nats for logits of student and teacher."""

    def lost(found_RV: torch.Tensor, wanted_RV: torch.Tensor) -> torch.Tensor:
        return _kl(_log_shares(wanted_RV, temperature), _log_shares(found_RV, temperature))

    return temperature**2 * _over_tokens(lost, found_TV, wanted_TV)


def reverse_kl(found_TV: torch.Tensor, wanted_TV: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Returns τ² Σ KL(student || teacher) in nats for logits of student and teacher."""

    def lost(found_RV: torch.Tensor, wanted_RV: torch.Tensor) -> torch.Tensor:
        return _kl(_log_shares(found_RV, temperature), _log_shares(wanted_RV, temperature))

    return temperature**2 * _over_tokens(lost, found_TV, wanted_TV)


def top_shares(logits_TV: torch.Tensor, k: int, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the k likeliest tokens (int32 [T, k]) and log-probabilities (float32 [T, k + 1]), the last of all others.

    The last number is that of everything else taken as one bucket, so that they are a distribution: cut off and
    renormalised the teacher would seem surer than it is.
    """
    log_TV = _log_shares(logits_TV, temperature)
    top_Tk, places_Tk = log_TV.topk(k, dim=-1)
    return places_Tk.to(torch.int32), torch.cat([top_Tk, _rest(log_TV, places_Tk)], -1)


def top_kl(
    found_TV: torch.Tensor, places_Tk: torch.Tensor, shares_Tk: torch.Tensor, temperature: float, *, reverse: bool
) -> torch.Tensor:
    """Returns τ² Σ KL over the k + 1 buckets that `top_shares` gave of the teacher at the same temperature.

    It is never above the divergence over the whole vocabulary, and equals it where the student divides the last bucket
    as the teacher does.
    """

    def lost(found_RV: torch.Tensor, places_Rk: torch.Tensor, shares_Rk: torch.Tensor) -> torch.Tensor:
        log_RV, places_Rk = _log_shares(found_RV, temperature), places_Rk.long()
        found_Rk = torch.cat([log_RV.gather(-1, places_Rk), _rest(log_RV, places_Rk)], -1)
        return _kl(found_Rk, shares_Rk) if reverse else _kl(shares_Rk, found_Rk)

    return temperature**2 * _over_tokens(lost, found_TV, places_Tk, shares_Tk)


def cross_entropy(found_TV: torch.Tensor, next_T: torch.Tensor) -> torch.Tensor:
    """Returns Σ −log p(next token) in nats for the student's logits and the tokens that come next, int64 [T]."""

    def lost(found_RV: torch.Tensor, next_R: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(found_RV.float(), next_R, reduction="sum")

    return _over_tokens(lost, found_TV, next_T)


def hidden_distance(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns Σ over tokens of the squared distance of hidden states [B, T, H] to the teacher's, mean of the layers.

    Each layer counts in units of the mean square of the teacher's states there, as in SquareHead (arXiv 2310.06927):
    without that the layers with the largest states would be all that counts.

    Raises:
        MethodError: the two have another number of layers, or another width.
    """
    shapes = [[tuple(layer.shape[2:]) for layer in side] for side in (found, wanted)]
    if shapes[0] != shapes[1]:
        (found_depth, found_width), (depth, width) = ((len(s), s[0][0] if s else 0) for s in shapes)
        raise MethodError(
            f"hidden states of {found_depth} layers, {found_width} wide, against {depth} of {width} of the teacher",
            allowed="a student with as many layers of the same hidden size",
            do="Leave hidden_weight at 0",
        )
    lost = torch.zeros((), device=found[0].device)
    for found_BTH, wanted_BTH in zip(found, wanted, strict=True):
        wanted_BTH = wanted_BTH.float()
        scale = wanted_BTH.square().mean().clamp_min(1e-12)
        lost = lost + (found_BTH.float() - wanted_BTH).square().mean(-1).sum() / scale
    return lost / len(found)


def _log_shares(logits_RV: torch.Tensor, temperature: float) -> torch.Tensor:
    return (logits_RV.float() / temperature).log_softmax(-1)


def _kl(of: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """Returns Σ exp(of) (of − to); a bucket that `of` gives nothing costs nothing."""
    return functional.kl_div(to, of, reduction="sum", log_target=True)


def _rest(log_RV: torch.Tensor, places_Rk: torch.Tensor) -> torch.Tensor:
    """Returns the log-probability [R, 1] of everything but the tokens at `places_Rk`."""
    return log_RV.scatter(-1, places_Rk, -torch.inf).logsumexp(-1, keepdim=True)


def _over_tokens(lost: Callable[..., torch.Tensor], found_TV: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    """Returns the sum of `lost` over stretches of tokens; what is inside is computed again in the backward pass."""
    size = max(1, STRETCH_NUMBERS // found_TV.shape[-1])
    total = torch.zeros((), device=found_TV.device)
    for stretch in zip(*(split(tensor, size) for tensor in (found_TV, *others)), strict=True):
        total = total + checkpoint(lost, *stretch, use_reentrant=False, preserve_rng_state=False)
    return total
