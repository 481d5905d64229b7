"""Rounds weights to small floating-point numbers in groups: FP8, NVFP4 and MXFP4.

Scales are those of compressed-tensors (0.20) for the extremes: peak / 448 for FP8, E4M3 of global · peak / 6 for NVFP4,
a power of two for MXFP4. The search tries scales around them, NVFP4's between 0.6 and 1.6 of it: with a scale 1.5 times
as large the greatest weight becomes 4 instead of 6, whose neighbours are closer to it.

Shape letters: N out features, K in features, G groups of g columns, R rows of a chunk.
"""

from __future__ import annotations

import math

import torch

from compress.format import minifloats
from compress.format.layouts import float_group
from compress.format.packed import PackedTensor
from compress.numerics import grid
from compress.numerics.ranges import Range

GROUPS = {"nvfp4": 16, "mxfp4": 32}
"""Grid -> columns of a group."""
_FACTORS = {
    "nvfp4": (1.0, 0.6, 0.67, 0.75, 0.83, 0.88, 0.94, 1.06, 1.12, 1.2, 1.3, 1.4, 1.5, 1.6),
    "mxfp4": (1.0, 0.5, 2.0),
}
"""Scales tried, relative to that of the extremes. FP8 is as exact at any scale, so none is searched there."""
_CHUNK = 1 << 20


class FloatGrid:
    """Codes of small floating-point numbers: float_group.v1."""

    def __init__(self, kind: str, peak: torch.Tensor, dtype: torch.dtype | None) -> None:
        """Makes the grid `fp8`, `fp8_tensor`, `nvfp4` or `mxfp4`.

        `peak` (float32) is the greatest magnitude that one scale for all is made for, `dtype` that of FP8's scales.
        """
        self._kind, self._peak, self._dtype = kind, peak, dtype
        self._global = minifloats.nvfp4_global_scale(peak) if kind == "nvfp4" else None

    def fit(self, w_NGg: torch.Tensor, weight_Gg: torch.Tensor | None, search: bool) -> Range:
        """See `Grid.fit`."""
        peak_NG = w_NGg.abs().amax(-1)
        best_NG = self._scale(peak_NG)
        if search and self._kind in _FACTORS:
            size = max(1, _CHUNK // math.prod(w_NGg.shape[1:]))
            for start in range(0, len(w_NGg), size):
                rows = slice(start, start + size)
                best_NG[rows] = self._searched(w_NGg[rows], peak_NG[rows], weight_Gg)
        return Range(best_NG, None)

    def _searched(self, w_RGg: torch.Tensor, peak_RG: torch.Tensor, weight_Gg: torch.Tensor | None) -> torch.Tensor:
        best_RG = torch.empty_like(peak_RG)
        least_RG = torch.full_like(peak_RG, torch.inf)
        for factor in _FACTORS[self._kind]:
            scale_RG = self._scale(peak_RG * factor)
            wrong_RGg = (self.round(w_RGg, scale_RG[..., None], None)[1] - w_RGg).square_()
            error_RG = (wrong_RGg if weight_Gg is None else wrong_RGg.mul_(weight_Gg)).sum(-1)
            better_RG = error_RG < least_RG
            best_RG = torch.where(better_RG, scale_RG, best_RG)
            least_RG = torch.where(better_RG, error_RG, least_RG)
        return best_RG

    def _scale(self, peak_NG: torch.Tensor) -> torch.Tensor:
        """Returns the stored scales, as float32, for groups of these greatest magnitudes."""
        if self._kind == "mxfp4":
            return minifloats.mxfp4_scale(peak_NG)
        if self._global is not None:
            return minifloats.nvfp4_scale(peak_NG, self._global)
        peak_NG = self._peak.expand_as(peak_NG) if self._kind == "fp8_tensor" else peak_NG
        return grid.storable(peak_NG / minifloats.E4M3_MAX, self._dtype).float()

    def round(
        self, w: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Grid.round`."""
        worth = scale if self._global is None else scale / self._global
        if self._kind in GROUPS:
            return minifloats.e2m1_codes(w / worth), minifloats.round_e2m1(w / worth) * worth
        codes = minifloats.e4m3_codes(w / worth)
        return codes, minifloats.e4m3_values(codes) * worth

    def pack(self, codes_NK: torch.Tensor, scale_NG: torch.Tensor, zero_NG: torch.Tensor | None) -> PackedTensor:
        """See `Grid.pack`."""
        if self._kind == "mxfp4":
            return float_group.pack(codes_NK, minifloats.e8m0_codes(scale_NG), "e2m1", scale_dtype="e8m0")
        if self._kind == "nvfp4":
            codes_NG = minifloats.e4m3_codes(scale_NG)
            return float_group.pack(codes_NK, codes_NG, "e2m1", scale_dtype="e4m3", global_scale=self._global)
        scale_NG = scale_NG[:1] if self._kind == "fp8_tensor" else scale_NG
        return float_group.pack(codes_NK, grid.storable(scale_NG, self._dtype), "e4m3")
