"""GPTQ: rounds one input feature after the other and compensates each error in the features not rounded yet.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
arXiv 2210.17323, Alg. 1; the order by activity is that of the published code.

Differs from the paper in:
- with `act_order` the groups stay those of the natural order, and their ranges are fitted before the sweep, so that no
  order is stored and any engine reads the result;
- `search` fits a range to the least weighted squared error instead of to the extremes; the weight of a column is
  1 / U_kk², the price of its error after compensation (`numerics.sweep`);
- the weights of an input that was never active are rounded to nearest; the published code sets them to zero.

Shape letters: N out features, K in features, G groups of g columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format.layouts import int_group
from compress.format.packed import PackedTensor
from compress.numerics import grid, ranges, sweep

KIND = "pack"
NEEDS: frozenset[str] = frozenset({"gram_KK"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of GPTQ."""

    bits: int = 4
    """Bits of one code, 2 to 8."""
    group_size: int | None = None
    """Input features that share one scale: a divisor of the width, or -1 for the whole row. Not given: 128, or the next
    of 64, 32 and 16 that divides the width."""
    symmetric: bool = True
    """True: zero is the middle code and only scales are stored. False: a zero point is stored too."""
    act_order: bool = True
    """Rounds the most active input features first; groups keep the natural order."""
    search: bool = True
    """Fits the ranges to the weighted squared error; off: takes the extremes of each group."""
    damping: float = 0.01
    """Added to the diagonal of the Gram matrix, relative to its mean; 0 or more."""
    scale_dtype: str = "auto"
    """Dtype of the scales, in which the codes are chosen: float16, bfloat16 or float32; auto: float16, or float32 where
    scales leave its range. Engines hold scales in the dtype of the model: give that one to export without rounding."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise MethodError(f"bits={self.bits}", allowed="2 to 8")
        grid.scale_dtype(self.scale_dtype)
        if not 0 <= self.damping < math.inf:
            raise MethodError(f"damping={self.damping}", allowed="0 or more")


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat."""
    grid.group_width(shape[1], config.group_size)


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Returns the weight as an int_group.v1 tensor, fitted to the inputs that `stats` describes.

    Args:
        w_NK: the weight, float [N, K].
        stats: sums over the inputs of the linear; `gram_KK` float32 [K, K] is read.
        config: options.

    Raises:
        MethodError: a weight is not finite, the options do not fit the shape, or the Gram matrix cannot be
            factorised with this damping.
    """
    assert stats is not None, "GPTQ needs the Gram matrix of the inputs"
    grid.check_finite(w_NK)
    in_features = w_NK.shape[1]
    width = grid.group_width(in_features, config.group_size)
    order_K = sweep.column_order(stats.gram_KK, config.act_order)
    upper_KK = sweep.inverse_factor(stats.gram_KK, order_K, config.damping)
    rounder = _Rounder(w_NK.float(), order_K, width, config)
    if order_K is None:
        # groups are whole in this order: each is fitted when the sweep reaches it, to the compensated weights
        sweep.sweep(w_NK.float().T.contiguous(), upper_KK, width, rounder)
    else:
        # a group's columns come at different times: all ranges are fitted first, and the sweep sees one group
        rounder.fit_all(w_NK.float(), upper_KK)
        sweep.sweep(w_NK[:, order_K].float().T.contiguous(), upper_KK, in_features, rounder)
    return int_group.pack(rounder.codes_KN.T, *rounder.stored(), bits=config.bits)


class _Rounder:
    """Keeps the codes [K, N] and the ranges of the groups, both in the natural order of the input features."""

    def __init__(self, w_NK: torch.Tensor, order_K: torch.Tensor | None, width: int, config: Config) -> None:
        rows, in_features = w_NK.shape
        self.config, self.width, self.top = config, width, 2**config.bits - 1
        self.column_at = range(in_features) if order_K is None else order_K.tolist()
        self.fixed = order_K is not None
        self.codes_KN = torch.empty(in_features, rows, dtype=torch.uint8, device=w_NK.device)
        self.scale_GN = torch.empty(in_features // width, rows, device=w_NK.device)
        middle = 2.0 ** (config.bits - 1)
        self.zero_GN = torch.full_like(self.scale_GN, middle)

    def fit_all(self, w_NK: torch.Tensor, upper_KK: torch.Tensor) -> None:
        """Fits the ranges of all groups to the weights before the sweep."""
        back_K = torch.tensor(self.column_at, device=w_NK.device).argsort()
        weight_Gg = upper_KK.diagonal()[back_K].square().reciprocal().view(-1, self.width)
        self._keep(slice(None), self._fit(w_NK.reshape(w_NK.shape[0], -1, self.width), weight_Gg))

    def start_group(self, group: int, w_gN: torch.Tensor, d_g: torch.Tensor) -> None:
        """Fits a group's range to its current weights, unless all were fitted before."""
        if not self.fixed:
            fitted = self._fit(w_gN.T.contiguous()[:, None], d_g.square().reciprocal()[None])
            self._keep(slice(group, group + 1), fitted)

    def round(self, column: int, w_N: torch.Tensor, d: float) -> torch.Tensor:
        """Returns the stored value of a column."""
        place = self.column_at[column]
        scale_N, zero_N = self.scale_GN[place // self.width], self.zero_GN[place // self.width]
        code_N = (w_N / scale_N).add_(zero_N).round_().clamp_(0, self.top)
        self.codes_KN[place] = code_N
        return code_N.sub_(zero_N).mul_(scale_N)

    def stored(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns scales and zero points [N, G] as they are stored."""
        scale_NG, dtype = self.scale_GN.T, grid.scale_dtype(self.config.scale_dtype)
        # groups were fitted one by one; float16 serves when it holds every one of them
        stored_NG = scale_NG.to(dtype or torch.float16)
        return stored_NG if dtype or torch.equal(
            stored_NG.float(), scale_NG
        ) else scale_NG, None if self.config.symmetric else self.zero_GN.T

    def _fit(self, w_NGg: torch.Tensor, weight_Gg: torch.Tensor) -> ranges.Range:
        bits, symmetric, dtype = self.config.bits, self.config.symmetric, grid.scale_dtype(self.config.scale_dtype)
        if self.config.search:
            return ranges.searched(w_NGg, bits, symmetric, weight_Gg, dtype)
        return ranges.extremes(w_NGg, bits, symmetric, dtype)

    def _keep(self, groups: slice, fitted: ranges.Range) -> None:
        self.scale_GN[groups] = fitted.scale_NG.T.float()
        if fitted.zero_NG is not None:
            self.zero_GN[groups] = fitted.zero_NG.T
