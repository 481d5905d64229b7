"""Fits the scale and zero point of integer groups: from the extremes, or to the least squared error.

A code q runs from 0 to 2^b − 1 and stands for the weight (q − zero) · scale. On a symmetric grid the zero is the middle
code 2^(b−1) and only scales are stored.

The error of a group is ‖w − s q‖², with q counted from the zero. It is piecewise quadratic in s: the codes change only
where a weight crosses a rounding border. With the codes held, the best scale and what it gains over all zeros are

    s = ⟨q, w⟩ / ⟨q, q⟩        ‖w‖² − ‖w − s q‖² = ⟨q, w⟩² / ⟨q, q⟩

so a search needs only the two products for each set of codes, never the error itself.

Source of the objective: EasyQuant, arXiv 2403.02775 §3.

Shape letters: N out features, G groups of g columns, R rows of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.numerics import grid

_CHUNK = 1 << 18
"""Weights searched at once: a chunk and its codes stay in the cache of a core."""
_FACTORS = (
    *(1.06, 1.03, 1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.76),
    *(0.7, 0.64, 0.58, 0.52, 0.46, 0.39, 0.32, 0.25, 0.18, 0.12),
)
"""Scales tried, relative to that of the extremes: dense near 1, where the best one usually is, and down to 0.12 for
groups with one huge weight, which is then clipped. Each stands for the best scale with its codes, so few suffice."""
_REFRESHES = 3
"""Times that the best scale is rounded with and fitted again; this only gains, and rarely after the third time."""
_ADAM_RATE = 0.02
"""Learning rate of the logarithm of a scale."""


@dataclass(frozen=True, slots=True)
class Range:
    """A scale and a zero point for every group."""

    scale_NG: torch.Tensor  # noqa: N815
    """Scales in the dtype they are stored in."""
    zero_NG: torch.Tensor | None  # noqa: N815
    """Zero points, whole numbers as float32; None: symmetric."""


def extremes(w_NGg: torch.Tensor, bits: int, symmetric: bool, dtype: torch.dtype | None = None) -> Range:
    """Returns the range that reaches the extremes of every group, and zero; its scales as `grid.storable` gives them.

    Zero is always inside, so a pruned weight stays exactly zero; on a symmetric grid the greatest weight becomes the
    code ±(2^(b−1) − 1).
    """
    if symmetric:
        return Range(grid.storable(w_NGg.abs().amax(-1) / (2 ** (bits - 1) - 1), dtype), None)
    top = 2**bits - 1
    low_NG, high_NG = w_NGg.amin(-1).clamp_max(0), w_NGg.amax(-1).clamp_min(0)
    scale_NG = grid.storable((high_NG - low_NG) / top, dtype)
    return Range(scale_NG, (-low_NG / scale_NG.float()).round_().clamp_(0, top))


def searched(
    w_NGg: torch.Tensor,
    bits: int,
    symmetric: bool,
    weight_Gg: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Range:
    """Returns the range with the least squared error among those tried; zero points stay those of the extremes.

    Args:
        w_NGg: weights float32, in groups.
        bits: bits of one code.
        symmetric: whether the middle code is zero.
        weight_Gg: how much the error of each column counts, float32 [G, g]; None: all alike.
        dtype: of the scales; None: as `grid.storable` chooses.
    """

    def search(w_RGg: torch.Tensor, start: Range) -> torch.Tensor:
        levels = _Levels(w_RGg, bits, start.zero_NG, weight_Gg)
        start_RG = start.scale_NG.float()
        # the codes of the extremes come first, so that no group does worse than with them
        best_RG, gain_RG = levels.fitted(start_RG)
        for factor in _FACTORS:
            _keep_better(best_RG, gain_RG, *levels.fitted(start_RG * factor))
        for _ in range(_REFRESHES):
            _keep_better(best_RG, gain_RG, *levels.fitted(best_RG))
        return best_RG

    return _by_chunks(w_NGg, extremes(w_NGg, bits, symmetric), search, dtype)


def descended(w_NGg: torch.Tensor, bits: int, symmetric: bool, steps: int, dtype: torch.dtype | None = None) -> Range:
    """Returns the range that Adam finds from the extremes in `steps` steps (EasyQuant, arXiv 2403.02775 §3.2).

    The gradient is that of the paper, dL/ds = 2 Σ (s q − w) q with the codes q held. Differs from the paper in: the
    descent is on log s, so that its rate of 0.02 does not depend on the magnitude of the weights.
    """

    def descend(w_RGg: torch.Tensor, start: Range) -> torch.Tensor:
        levels = _Levels(w_RGg, bits, start.zero_NG, None)
        log_RG = start.scale_NG.float().log()
        first_RG, second_RG = torch.zeros_like(log_RG), torch.zeros_like(log_RG)
        whole_RG = w_RGg.square().sum(-1).clamp_min_(torch.finfo(torch.float32).tiny)
        for step in range(1, steps + 1):
            scale_RG = log_RG.exp()
            # dL/d(log s) = s · dL/ds, relative to the energy of the group
            qw_RG, qq_RG = levels.products(scale_RG)
            slope_RG = 2 * (scale_RG * qq_RG - qw_RG) * scale_RG / whole_RG
            first_RG.lerp_(slope_RG, 0.1)  # Adam with its usual betas, 0.9 and 0.999
            second_RG.lerp_(slope_RG.square(), 0.001)
            update_RG = first_RG / (1 - 0.9**step) / ((second_RG / (1 - 0.999**step)).sqrt() + 1e-12)
            log_RG -= _ADAM_RATE * update_RG
        return log_RG.exp()

    return _by_chunks(w_NGg, extremes(w_NGg, bits, symmetric), descend, dtype)


def codes(w_NGg: torch.Tensor, fitted: Range, bits: int) -> torch.Tensor:
    """Returns the nearest codes uint8 [N, K] of weights [N, G, g] in the groups of a range."""
    zero_NG1 = 2.0 ** (bits - 1) if fitted.zero_NG is None else fitted.zero_NG[..., None]
    codes_NGg = torch.empty(w_NGg.shape, dtype=torch.uint8, device=w_NGg.device)
    for rows in _chunks(w_NGg):
        zero_RG1 = zero_NG1 if isinstance(zero_NG1, float) else zero_NG1[rows]
        value_RGg = w_NGg[rows] / fitted.scale_NG[rows].float()[..., None]
        codes_NGg[rows] = value_RGg.add_(zero_RG1).round_().clamp_(0, 2**bits - 1)
    return codes_NGg.flatten(1)


class _Levels:
    """Rounds a chunk of weights with a scale, and fits the best scale to the codes."""

    def __init__(
        self, w_RGg: torch.Tensor, bits: int, zero_RG: torch.Tensor | None, weight_Gg: torch.Tensor | None
    ) -> None:
        self.w_RGg = w_RGg
        self.weighted_RGg = w_RGg if weight_Gg is None else w_RGg * weight_Gg
        self.weight_Gg = weight_Gg
        # codes are counted from the zero here, so that they are multiplied by the scale alone
        middle = torch.tensor(2.0 ** (bits - 1), device=w_RGg.device)
        zero = middle if zero_RG is None else zero_RG[..., None]
        self.low, self.high = -zero, 2**bits - 1 - zero
        self.code_RGg = torch.empty_like(w_RGg)

    def products(self, scale_RG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns ⟨q, w⟩ and ⟨q, q⟩ of every group for the codes that `scale_RG` gives, zero counted as 0."""
        code_RGg = torch.mul(self.w_RGg, scale_RG.reciprocal()[..., None], out=self.code_RGg).round_()
        torch.clamp(code_RGg, self.low, self.high, out=code_RGg)
        qw_RG = torch.einsum("rgk,rgk->rg", code_RGg, self.weighted_RGg)
        if self.weight_Gg is None:
            return qw_RG, torch.einsum("rgk,rgk->rg", code_RGg, code_RGg)
        return qw_RG, torch.einsum("rgk,gk->rg", code_RGg.square_(), self.weight_Gg)

    def fitted(self, scale_RG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the best scale for the codes that `scale_RG` gives, and by how much it lowers the squared error."""
        qw_RG, qq_RG = self.products(scale_RG)
        flat_RG = qq_RG <= 0  # nothing but zeros: any scale will do
        best_RG = torch.where(flat_RG, scale_RG, qw_RG / qq_RG)
        return best_RG, torch.where(flat_RG, 0.0, qw_RG * best_RG)


def _keep_better(
    best_RG: torch.Tensor, gain_RG: torch.Tensor, other_RG: torch.Tensor, other_gain_RG: torch.Tensor
) -> None:
    better_RG = other_gain_RG > gain_RG
    best_RG.copy_(torch.where(better_RG, other_RG, best_RG))
    gain_RG.copy_(torch.where(better_RG, other_gain_RG, gain_RG))


def _by_chunks(
    w_NGg: torch.Tensor,
    start: Range,
    search: Callable[[torch.Tensor, Range], torch.Tensor],
    dtype: torch.dtype | None,
) -> Range:
    scale_NG = torch.empty(start.scale_NG.shape, device=w_NGg.device)
    for rows in _chunks(w_NGg):
        zero_RG = None if start.zero_NG is None else start.zero_NG[rows]
        scale_NG[rows] = search(w_NGg[rows], Range(start.scale_NG[rows], zero_RG))
    return Range(grid.storable(scale_NG, dtype), start.zero_NG)


def _chunks(w_NGg: torch.Tensor) -> list[slice]:
    rows = max(1, _CHUNK // max(1, math.prod(w_NGg.shape[1:])))
    return [slice(start, start + rows) for start in range(0, w_NGg.shape[0], rows)]
