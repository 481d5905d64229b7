"""Rounds weights to the grids of GGUF's K-quants: scales of groups are integers times a float16 of 256 columns.

The scales (and minima) of groups are fitted as real numbers, and rounded to their integers before any code is chosen;
a sweep then compensates for that, too. Minima are fitted again to the rounded scales.

With codes q and weights v of the columns, the best scale s and minimum m of w ≈ s·q − m solve two linear equations:

    s = (Σv·Σvqw − Σvq·Σvw) / (Σv·Σvq² − (Σvq)²)        m = (s·Σvq − Σvw) / Σv

Shape letters: N out features, G groups of g columns, S super-blocks, R rows of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from compress.format.layouts import super_block
from compress.format.packed import PackedTensor
from compress.numerics import grid, ranges

BITS = {"q2_k": 2, "q3_k": 3, "q4_k": 4, "q5_k": 5, "q6_k": 6}
"""Grid -> bits of a code."""
SHORT_BITS = {"q2_k": 4, "q3_k": 4, "q4_k": 5, "q5_k": 5, "q6_k": 8}
"""Grid -> bits of symmetric codes in groups of 32, where 256 does not divide a row: Q4_0, Q5_0 and Q8_0 in GGUF."""
SHORT_GROUP = 32
_FACTORS = (1.0, 1.05, 0.95, 0.9, 0.85, 0.8, 0.72, 0.64, 0.55)
"""Ranges tried, relative to that of the extremes; each stands for the best scale and minimum with its codes."""
_CHUNK = 1 << 18
"""Weights fitted at once."""


def fits(in_features: int) -> bool:
    """Returns whether rows are made of whole super-blocks."""
    return in_features % super_block.COLUMNS == 0


def signed_scale(
    w_NGg: torch.Tensor, bits: int, weight_Gg: torch.Tensor | None, search: bool, dtype: torch.dtype
) -> torch.Tensor:
    """Returns the best scales of symmetric codes, as float32 in the values of `dtype`.

    A scale is negative where the code without an opposite, −2^(b−1), serves the greatest weight better.
    """
    if not search:
        return ranges.extremes(w_NGg, bits, True, dtype).scale_NG.float()
    plus_NG = ranges.searched(w_NGg, bits, True, weight_Gg, dtype).scale_NG.float()
    minus_NG = -ranges.searched(-w_NGg, bits, True, weight_Gg, dtype).scale_NG.float()
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    size = max(1, _CHUNK // math.prod(w_NGg.shape[1:]))
    for start in range(0, len(w_NGg), size):
        rows = slice(start, start + size)
        errors = []
        for scale_RG1 in (plus_NG[rows, :, None], minus_NG[rows, :, None]):
            wrong_RGg = (w_NGg[rows] / scale_RG1).round_().clamp_(lowest, highest).mul_(scale_RG1).sub_(w_NGg[rows])
            wrong_RGg.square_()
            errors.append((wrong_RGg if weight_Gg is None else wrong_RGg.mul_(weight_Gg)).sum(-1))
        plus_NG[rows] = torch.where(errors[1] < errors[0], minus_NG[rows], plus_NG[rows])
    return plus_NG


class SuperBlockGrid:
    """Codes with scales of two levels: super_block.v1. One fit is for a whole weight, and `pack` packs the last one."""

    def __init__(self, kind: str) -> None:
        """Makes the grid `q2_k` to `q6_k`."""
        self._bits = BITS[kind]
        self._kind = super_block.KINDS[self._bits]
        self._top = 2**self._bits - 1
        self._middle = 2 ** (self._bits - 1)

    def fit(self, w_NGg: torch.Tensor, weight_Gg: torch.Tensor | None, search: bool) -> ranges.Range:
        """See `Grid.fit`: the scales and, in place of zero points, the minima, in the value that is stored."""
        self._scale_NG, self._d_NS, scale_NG = self._whole(self._scales(w_NGg, weight_Gg, search))
        if self._kind.symmetric:
            return ranges.Range(scale_NG, None)
        minimum_NG = self._by_rows(w_NGg, lambda w, rows: self._best_minimum(w, scale_NG[rows], weight_Gg, rows))
        self._minimum_NG, self._dmin_NS, minimum_NG = self._whole(minimum_NG)
        return ranges.Range(scale_NG, minimum_NG)

    def round(
        self, w: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Grid.round`; `zero` are minima."""
        divisor = torch.where(scale == 0, 1.0, scale)
        if zero is None:
            code = (w / divisor).round_().clamp_(-self._middle, self._middle - 1)
            return (code + self._middle).to(torch.uint8), code * scale
        code = ((w + zero) / divisor).round_().clamp_(0, self._top)
        return code.to(torch.uint8), code * scale - zero

    def pack(self, codes_NK: torch.Tensor, scale_NG: torch.Tensor, zero_NG: torch.Tensor | None) -> PackedTensor:
        """See `Grid.pack`: of the last fit."""
        if zero_NG is None:
            return super_block.pack(codes_NK, self._scale_NG, None, self._d_NS, None, bits=self._bits)
        return super_block.pack(codes_NK, self._scale_NG, self._minimum_NG, self._d_NS, self._dmin_NS, bits=self._bits)

    def _whole(self, value_NG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns values as integers, their unit of each super-block, and what they are worth then."""
        value_NSp = value_NG.view(value_NG.shape[0], -1, super_block.COLUMNS // self._kind.group_size)
        d_NS = grid.storable(value_NSp.abs().amax(-1) / self._kind.highest, torch.float16)
        unit_NS1 = d_NS.float()[..., None]
        whole_NSp = (value_NSp / unit_NS1).round_().clamp_(self._kind.lowest, self._kind.highest)
        return whole_NSp.flatten(1), d_NS, (whole_NSp * unit_NS1).flatten(1)

    def _by_rows(self, w_NGg: torch.Tensor, fit: Callable[[torch.Tensor, slice], torch.Tensor]) -> torch.Tensor:
        size = max(1, _CHUNK // math.prod(w_NGg.shape[1:]))
        pieces = [slice(start, start + size) for start in range(0, len(w_NGg), size)]
        return torch.cat([fit(w_NGg[rows], rows) for rows in pieces])

    def _scales(self, w_NGg: torch.Tensor, weight_Gg: torch.Tensor | None, search: bool) -> torch.Tensor:
        """The scales of groups as real numbers; the minima that go with them are kept for a start."""
        if self._kind.symmetric:
            return signed_scale(w_NGg, self._bits, weight_Gg, search, torch.float32)
        both = self._by_rows(w_NGg, lambda w_RGg, _: torch.stack(self._affine(w_RGg, weight_Gg, search), -1))
        self._start_NG = both[..., 1]
        return both[..., 0]

    def _affine(
        self, w_RGg: torch.Tensor, weight_Gg: torch.Tensor | None, search: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best scale and minimum."""
        minimum_RG = -w_RGg.amin(-1).clamp_max(0)
        scale_RG = (w_RGg.amax(-1) + minimum_RG).clamp_min(0) / self._top
        if not search:
            return scale_RG, minimum_RG
        best = scale_RG, minimum_RG
        least_RG = self._error(w_RGg, *best, weight_Gg)
        for factor in _FACTORS:
            tried = self._refitted(w_RGg, scale_RG * factor, minimum_RG * factor, weight_Gg)
            tried = self._refitted(w_RGg, *tried, weight_Gg)
            error_RG = self._error(w_RGg, *tried, weight_Gg)
            better_RG = error_RG < least_RG
            best = torch.where(better_RG, tried[0], best[0]), torch.where(better_RG, tried[1], best[1])
            least_RG = torch.where(better_RG, error_RG, least_RG)
        return best

    def _refitted(
        self, w_RGg: torch.Tensor, scale_RG: torch.Tensor, minimum_RG: torch.Tensor, weight_Gg: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best scale and minimum for the codes that these give."""
        code = self.round(w_RGg, scale_RG[..., None], minimum_RG[..., None])[0].float()
        v = torch.ones_like(w_RGg[0]) if weight_Gg is None else weight_Gg
        v_G, vq, vw = v.sum(-1), (v * code).sum(-1), (v * w_RGg).sum(-1)
        vqq, vqw = (v * code.square()).sum(-1), (v * code * w_RGg).sum(-1)
        determinant = v_G * vqq - vq.square()
        flat = determinant <= 1e-6 * v_G * vqq
        best_RG = torch.where(flat, scale_RG, (v_G * vqw - vq * vw) / determinant.where(~flat, torch.ones_like(vq)))
        lower_RG = (best_RG * vq - vw) / v_G
        alone_RG = torch.where(vqq > 0, vqw / vqq.clamp_min(torch.finfo(torch.float32).tiny), scale_RG)
        best_RG = torch.where(lower_RG < 0, alone_RG, best_RG).clamp_min(0)
        return best_RG, lower_RG.clamp_min(0)

    def _best_minimum(
        self, w_RGg: torch.Tensor, scale_RG: torch.Tensor, weight_Gg: torch.Tensor | None, rows: slice
    ) -> torch.Tensor:
        """The best minimum for rounded scales, from the one that was fitted with the scales before."""
        start_RG = self._start_NG[rows]
        value_RGg = self.round(w_RGg, scale_RG[..., None], start_RG[..., None])[1]
        v = torch.ones_like(w_RGg[0]) if weight_Gg is None else weight_Gg
        return (start_RG + (v * (value_RGg - w_RGg)).sum(-1) / v.sum(-1)).clamp_min(0)

    def _error(
        self,
        w_RGg: torch.Tensor,
        scale_RG: torch.Tensor,
        minimum_RG: torch.Tensor | None,
        weight_Gg: torch.Tensor | None,
    ) -> torch.Tensor:
        zero = None if minimum_RG is None else minimum_RG[..., None]
        wrong_RGg = (self.round(w_RGg, scale_RG[..., None], zero)[1] - w_RGg).square_()
        return (wrong_RGg if weight_Gg is None else wrong_RGg.mul_(weight_Gg)).sum(-1)
