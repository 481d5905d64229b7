"""Learned n:m masks (MaskLLM): one logit for every pattern of a group of m inputs, drawn by a Gumbel softmax.

Source: Fang et al., "MaskLLM: Learnable Semi-Structured Sparsity for Large Language Models", arXiv 2409.17481 §3.

Differs from the paper in: the prior counts the overlap with the given mask from its mean over all patterns, n²/m, which
is the paper's 1 at 2:4 and makes sense for other patterns too.

Shape letters: N out features, K in features, G groups of m inputs, P patterns.
"""

from __future__ import annotations

import itertools
import math

import torch

from compress.errors import MethodError

MOST_PATTERNS = 70
"""Patterns of 4 of 8, the most that a group may have: 70 logits for 8 weights."""
KAPPA = (100.0, 500.0)
TAU = (4.0, 0.05)
"""Scale of the logits and temperature of the draw, at the first and the last step; linear in between."""
_SPREAD, _PRIOR = 0.01, 3.0
"""Standard deviation of the starting noise, and how many of them a pattern gains per weight shared with the prior."""


def check_patterns(n: int, m: int) -> None:
    """Raises MethodError when a group has more patterns than can be learned."""
    if math.comb(m, n) > MOST_PATTERNS:
        raise MethodError(
            f"learned masks of {n} of {m}, which have {math.comb(m, n)} patterns",
            allowed=f"up to {MOST_PATTERNS} patterns, as 2 of 4 (6) or 4 of 8 ({MOST_PATTERNS})",
        )


def patterns(n: int, m: int, device: torch.device | None = None) -> torch.Tensor:
    """Returns all masks of a group, float32 [P, m]."""
    check_patterns(n, m)
    rows = [[float(place in kept) for place in range(m)] for kept in itertools.combinations(range(m), n)]
    return torch.tensor(rows, device=device)


def logits_from(mask_NK: torch.Tensor, patterns_Pm: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Returns logits [N, G, P] that are noise, and higher the more of `mask_NK` a pattern keeps."""
    count, m = patterns_Pm.shape
    kept_NGm = mask_NK.reshape(mask_NK.shape[0], -1, m).float()
    noise_NGP = _SPREAD * torch.randn(*kept_NGm.shape[:2], count, generator=generator)
    overlap_NGP = kept_NGm @ patterns_Pm.T
    n = float(patterns_Pm[0].sum())
    return noise_NGP.to(mask_NK.device) + _PRIOR * _SPREAD * (overlap_NGP - n * n / m)


def at(ends: tuple[float, float], step: int, steps: int) -> float:
    """Returns the value of a linear schedule at a step, counted from 0."""
    share = min(1.0, step / max(1, steps - 1))
    return ends[0] + share * (ends[1] - ends[0])


def drawn(
    logits_NGP: torch.Tensor, patterns_Pm: torch.Tensor, kappa: float, tau: float, generator: torch.Generator
) -> torch.Tensor:
    """Returns a mask float32 [N, K] between 0 and 1, differentiable in the logits: a Gumbel softmax over patterns."""
    uniform_NGP = torch.rand(logits_NGP.shape, generator=generator).clamp_(1e-9, 1 - 1e-7)
    gumbel_NGP = -(-uniform_NGP.log()).log().to(logits_NGP.device)
    share_NGP = ((kappa * logits_NGP + gumbel_NGP) / tau).softmax(-1)
    return (share_NGP @ patterns_Pm).reshape(logits_NGP.shape[0], -1)


def chosen(logits_NGP: torch.Tensor, patterns_Pm: torch.Tensor) -> torch.Tensor:
    """Returns the mask of the likeliest patterns, bool [N, K]."""
    return patterns_Pm[logits_NGP.argmax(-1)].bool().reshape(logits_NGP.shape[0], -1)
