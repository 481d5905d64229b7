"""EasyQuant: keeps the few outlying weights exactly and fits the ranges to all others; needs no calibration.

Source: Tang et al., "EasyQuant: An Efficient Data-free Quantization Algorithm for LLMs", arXiv 2403.02775, Alg. 1.

Differs from the paper in:
- scales are searched (`numerics.ranges.searched`), which needs no learning rate; `fit="gradient"` is the paper's
  descent, on the logarithm of the scale;
- ranges may be per group and have a zero point; the paper has symmetric ranges per channel. The codes reach from
  −2^(b−1) to 2^(b−1) − 1 (the bounds printed in the paper do not fit in b bits);
- an outlier is stored as its difference from its dequantised code, so that the dense part can be read alone; where
  float16 cannot hold the difference exactly, the outlier takes the code of zero and the weight itself is stored;
  outliers out of the range of float16 make all of them float32;
- besides the number of sigmas, the share of outliers or the bits that they may take can be given.

Shape letters: N out features, K in features, G groups of g columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format.layouts import delta, int_group
from compress.format.packed import PackedTensor
from compress.numerics import grid, ranges

KIND = "pack"
NEEDS: frozenset[str] = frozenset()
_ROWS_OF = 1 << 18
"""Weights that are summed in float64 at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of EasyQuant."""

    bits: int = 4
    """Bits of one code, 2 to 8."""
    group_size: int | None = None
    """Input features that share one scale: a divisor of the width, or -1 for the whole row. Not given: 128, or the next
    of 64, 32 and 16 that divides the width."""
    symmetric: bool = True
    """True: zero is the middle code and only scales are stored. False: a zero point is stored too."""
    sigma: float = 3.0
    """Weights this many standard deviations or more from the mean of the matrix are outliers; above 0, inf for none."""
    outlier_share: float | None = None
    """Share of the weights that are outliers, those farthest from the mean; 0 to 0.5. Overrides sigma."""
    outlier_bits: float | None = None
    """Bits per weight that the outliers may take, 0 to 16; overrides sigma."""
    fit: str = "scan"
    """How ranges are fitted: `scan` (scales searched), `gradient` (Adam), or `extremes` (least and greatest weight)."""
    steps: int = 100
    """Steps of the gradient fit, 1 or more."""
    scale_dtype: str = "auto"
    """Dtype of the scales, in which the codes are chosen: float16, bfloat16 or float32; auto: float16, or float32 where
    scales leave its range. Engines hold scales in the dtype of the model: give that one to export without rounding."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise MethodError(f"bits={self.bits}", allowed="2 to 8")
        grid.scale_dtype(self.scale_dtype)
        if not self.sigma > 0:
            raise MethodError(f"sigma={self.sigma}", allowed="more than 0, or inf for no outliers")
        if self.outlier_share is not None and self.outlier_bits is not None:
            raise MethodError("outlier_share and outlier_bits are both given", do="Give one of them")
        if self.outlier_share is not None and not 0 <= self.outlier_share <= 0.5:
            raise MethodError(f"outlier_share={self.outlier_share}", allowed="0 to 0.5")
        if self.outlier_bits is not None and not 0 <= self.outlier_bits <= 16:
            raise MethodError(f"outlier_bits={self.outlier_bits}", allowed="0 to 16 bits per weight")
        if self.fit not in ("scan", "gradient", "extremes"):
            raise MethodError(f"fit={self.fit!r}", allowed="scan, gradient, extremes")
        if self.steps < 1:
            raise MethodError(f"steps={self.steps}", allowed="1 or more")


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat."""
    grid.group_width(shape[1], config.group_size)


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Returns the weight as an int_group.v1 tensor with its outliers as a delta part.

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
    w_NK = w_NK.float()
    outlier_NK = _outliers(w_NK, config, torch.float16)
    dtype = _delta_dtype(w_NK[outlier_NK])
    if dtype != torch.float16 and config.outlier_bits is not None:  # each takes more of the given bits
        outlier_NK = _outliers(w_NK, config, dtype)
    # for the fit an outlier is zero: it takes the code of zero and adds nothing to ⟨q, w⟩ or ⟨q, q⟩
    inner_NGg = w_NK.masked_fill(outlier_NK, 0).view(out_features, in_features // width, width)
    stored = grid.scale_dtype(config.scale_dtype)
    if config.fit == "scan":
        fitted = ranges.searched(inner_NGg, config.bits, config.symmetric, dtype=stored)
    elif config.fit == "gradient":
        fitted = ranges.descended(inner_NGg, config.bits, config.symmetric, config.steps, stored)
    else:
        fitted = ranges.extremes(inner_NGg, config.bits, config.symmetric, stored)
    del inner_NGg
    codes_NK = ranges.codes(w_NK.view(out_features, -1, width), fitted, config.bits)
    delta_NK = _exact_deltas(w_NK, codes_NK, outlier_NK, fitted, config.bits, dtype)
    return int_group.pack(
        codes_NK,
        fitted.scale_NG,
        fitted.zero_NG,
        bits=config.bits,
        outlier_NK=outlier_NK,
        delta_NK=delta_NK,
        delta_dtype=dtype,
    )


def _delta_dtype(w_Z: torch.Tensor) -> torch.dtype:
    """Returns float16 where it holds these weights in its normal range, as it does those of usual models; else float32.

    A difference is at most about as large as its weight. Where it is too small for float16, the weight itself is
    stored, see `_exact_deltas`.
    """
    half = torch.finfo(torch.float16)
    size_Z = w_Z.abs()
    fits = ((size_Z >= half.tiny) & (size_Z <= half.max / 2)) | (size_Z == 0)
    return torch.float16 if bool(fits.all()) else torch.float32


def _outliers(w_NK: torch.Tensor, config: Config, dtype: torch.dtype) -> torch.Tensor:
    """Returns which weights are outliers, bool [N, K], when deltas are stored in `dtype`."""
    far_NK = (w_NK - _sum(w_NK) / w_NK.numel()).abs_()
    share = config.outlier_share
    if config.outlier_bits is not None:
        rowptr_bits = 32 * (w_NK.shape[0] + 1) / w_NK.numel()
        share = max(0.0, config.outlier_bits - rowptr_bits) / delta.entry_bits(w_NK.shape[1], dtype)
    if share is None:
        sigma = math.sqrt(_sum(far_NK, squared=True) / w_NK.numel())
        return far_NK >= config.sigma * sigma if sigma > 0 else torch.zeros_like(far_NK, dtype=torch.bool)
    count = int(share * w_NK.numel())
    outlier_NK = torch.zeros(w_NK.numel(), dtype=torch.bool, device=w_NK.device)
    outlier_NK[far_NK.view(-1).topk(count).indices] = True
    return outlier_NK.view_as(w_NK)


def _sum(value_NK: torch.Tensor, *, squared: bool = False) -> float:
    """Returns the sum of the values, or of their squares, in float64.

    In float32 it would depend on the number of threads. A few rows at a time, since a float64 copy of the whole is
    twice its size.
    """
    rows = max(1, _ROWS_OF // value_NK.shape[1])
    total = 0.0
    for start in range(0, value_NK.shape[0], rows):
        part_RK = value_NK[start : start + rows].double()
        total += float((part_RK.square_() if squared else part_RK).sum())
    return total


def _exact_deltas(
    w_NK: torch.Tensor,
    codes_NK: torch.Tensor,
    outlier_NK: torch.Tensor,
    fitted: ranges.Range,
    bits: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Returns the deltas [N, K] in `dtype`; an outlier that would not come back exactly gets the code of zero instead.

    Shape letter: Z outliers.
    """
    row_Z, col_Z = outlier_NK.nonzero(as_tuple=True)
    group_Z = col_Z // (w_NK.shape[1] // fitted.scale_NG.shape[1])
    middle_Z = torch.full_like(row_Z, 2 ** (bits - 1)).float()
    zero_Z = middle_Z if fitted.zero_NG is None else fitted.zero_NG[row_Z, group_Z]
    dense_Z = (codes_NK[row_Z, col_Z].float() - zero_Z) * fitted.scale_NG[row_Z, group_Z].float()
    w_Z = w_NK[row_Z, col_Z]
    delta_Z = (w_Z - dense_Z).to(dtype)
    inexact_Z = dense_Z + delta_Z.float() != w_Z
    codes_NK[row_Z, col_Z] = torch.where(inexact_Z, zero_Z, codes_NK[row_Z, col_Z].float()).to(torch.uint8)
    delta_NK = torch.zeros(w_NK.shape, dtype=dtype, device=w_NK.device)
    delta_NK[row_Z, col_Z] = torch.where(inexact_Z, w_Z.to(dtype), delta_Z)
    return delta_NK
