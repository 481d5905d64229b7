"""Round to nearest: one scale per group, without calibration. The baseline that every other method must beat.

Shape letters: N out features, K in features, G groups of g consecutive in features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format.layouts import int_group
from compress.format.packed import PackedTensor
from compress.numerics import grid, ranges

KIND = "pack"
NEEDS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of round to nearest."""

    bits: int = 4
    """Bits of one code, 2 to 8."""
    group_size: int | None = None
    """Input features that share one scale: a divisor of the width, or -1 for the whole row. Not given: 128, or the next
    of 64, 32 and 16 that divides the width."""
    symmetric: bool = True
    """True: zero is the middle code and only scales are stored. False: min to max of the group, with a zero point."""
    scale_dtype: str = "auto"
    """Dtype of the scales, in which the codes are chosen: float16, bfloat16 or float32; auto: float16, or float32 where
    scales leave its range. Engines hold scales in the dtype of the model: give that one to export without rounding."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise MethodError(f"bits={self.bits}", allowed="2 to 8")
        grid.scale_dtype(self.scale_dtype)


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat."""
    grid.group_width(shape[1], config.group_size)


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Returns the weight rounded to the nearest code of its group, as an int_group.v1 tensor.

    Args:
        w_NK: the weight, float [N, K].
        stats: not read.
        config: options.

    Raises:
        MethodError: a weight is not finite, or the options do not fit the shape.
    """
    grid.check_finite(w_NK)
    out_features, in_features = w_NK.shape
    width = grid.group_width(in_features, config.group_size)
    w_NGg = w_NK.float().reshape(out_features, in_features // width, width)
    fitted = ranges.extremes(w_NGg, config.bits, config.symmetric, grid.scale_dtype(config.scale_dtype))
    codes_NK = ranges.codes(w_NGg, fitted, config.bits)
    return int_group.pack(codes_NK, fitted.scale_NG, fitted.zero_NG, bits=config.bits)
