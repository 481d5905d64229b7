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
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format.packed import PackedTensor
from compress.numerics import grid, ranges, sweep, weight_grids
from compress.numerics.weight_grids import Grid

KIND = "pack"
NEEDS: frozenset[str] = frozenset({"gram_KK"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of GPTQ."""

    bits: int = 4
    """Bits of one code, 2 to 8."""
    group_size: int | None = None
    """Input features that share one scale: a divisor of the width, or -1 for the whole row. Not given: 128, or the next
    of 64, 32 and 16 that divides the width; the whole row with int8 activations."""
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

    grid: str = "int"
    """What weights are rounded to: int, integers of --bits in groups of --group-size; fp8, E4M3 with a scale per row;
    fp8_tensor, with one scale; nvfp4 or mxfp4, E2M1 in groups of 16 or 32; q2_k to q6_k, the K-quants of GGUF (where
    256 does not divide a row: Q4_0, Q5_0 or Q8_0). All but int fix bits and groups."""
    activations: str = "none"
    """What the inputs of the linears are rounded to, too: int8 (per token; with grid int, 8 bits, whole rows), fp8 (per
    token) or fp8_static (a scale from calibration) with grid fp8, nvfp4 with nvfp4, mxfp4 with mxfp4."""
    weight_peak: float | None = None
    """The weight that the one scale of nvfp4 and fp8_tensor is made for. Not given: the greatest of the linears that
    share an input, since engines join them."""

    def __post_init__(self) -> None:
        weight_grids.check_options(self)
        if not 0 <= self.damping < math.inf:
            raise MethodError(f"damping={self.damping}", allowed="0 or more")


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat."""
    weight_grids.width(shape[1], config)


def needs(config: Config) -> frozenset[str]:
    """Returns the statistics that are read."""
    return NEEDS | {"peak"} if config.activations in weight_grids.CALIBRATED else NEEDS


def activations(config: Config) -> str | None:
    """Returns how packed linears round their inputs."""
    return None if config.activations == "none" else config.activations


def shared(weights: Sequence[torch.Tensor], config: Config) -> Config:
    """Returns `config` with the peak that linears of one input have together, where they must share one scale."""
    return replace(config, weight_peak=weight_grids.joined_peak(weights, config))


def joins(config: Config) -> bool:
    """Returns whether linears of one input share a scale."""
    return config.weight_peak is None and config.grid in weight_grids.ONE_SCALE


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Returns the weight fitted to the inputs that `stats` describes, in the layout of the grid.

    The layouts are int_group.v1, float_group.v1 and super_block.v1.

    Args:
        w_NK: the weight, float [N, K].
        stats: sums over the inputs of the linear; `gram_KK` float32 [K, K] is read, and `peak` for inputs with a
            scale from calibration.
        config: options.

    Raises:
        MethodError: a weight is not finite, the options do not fit the shape, or the Gram matrix cannot be
            factorised with this damping.
    """
    assert stats is not None, "GPTQ needs the Gram matrix of the inputs"
    grid.check_finite(w_NK)
    in_features = w_NK.shape[1]
    width = weight_grids.width(in_features, config)
    order_K = sweep.column_order(stats.gram_KK, config.act_order)
    if order_K is None and weight_grids.at_once(config):
        order_K = torch.arange(in_features, device=w_NK.device)
    upper_KK = sweep.inverse_factor(stats.gram_KK, order_K, config.damping)
    levels = weight_grids.make(config, w_NK)
    rounder = _Rounder(w_NK.float(), order_K, width, levels, config.search)
    if order_K is None:
        # groups are whole in this order: each is fitted when the sweep reaches it, to the compensated weights
        sweep.sweep(w_NK.float().T.contiguous(), upper_KK, width, rounder)
    else:
        # a group's columns come at different times: all ranges are fitted first, and the sweep sees one group
        rounder.fit_all(w_NK.float(), upper_KK)
        sweep.sweep(w_NK[:, order_K].float().T.contiguous(), upper_KK, in_features, rounder)
    zero_NG = rounder.zero_GN.T if rounder.has_zero else None
    packed = levels.pack(rounder.codes_KN.T, rounder.scale_GN.T, zero_NG)
    return weight_grids.with_activations(packed, config, stats.peak)


class _Rounder:
    """Keeps the codes [K, N] and the ranges of the groups, both in the natural order of the input features."""

    def __init__(
        self, w_NK: torch.Tensor, order_K: torch.Tensor | None, width: int, levels: Grid, search: bool
    ) -> None:
        rows, in_features = w_NK.shape
        self.levels, self.width, self.search = levels, width, search
        self.column_at = range(in_features) if order_K is None else order_K.tolist()
        self.fixed = order_K is not None
        self.codes_KN = torch.empty(in_features, rows, dtype=torch.uint8, device=w_NK.device)
        self.scale_GN = torch.empty(in_features // width, rows, device=w_NK.device)
        self.zero_GN = torch.empty_like(self.scale_GN)
        self.has_zero = False

    def fit_all(self, w_NK: torch.Tensor, upper_KK: torch.Tensor) -> None:
        """Fits the ranges of all groups to the weights before the sweep."""
        back_K = torch.tensor(self.column_at, device=w_NK.device).argsort()
        weight_Gg = upper_KK.diagonal()[back_K].square().reciprocal().view(-1, self.width)
        w_NGg = w_NK.reshape(w_NK.shape[0], -1, self.width)
        self._keep(slice(None), self.levels.fit(w_NGg, weight_Gg, self.search))

    def start_group(self, group: int, w_gN: torch.Tensor, d_g: torch.Tensor) -> None:
        """Fits a group's range to its current weights, unless all were fitted before."""
        if not self.fixed:
            fitted = self.levels.fit(w_gN.T.contiguous()[:, None], d_g.square().reciprocal()[None], self.search)
            self._keep(slice(group, group + 1), fitted)

    def round(self, column: int, w_N: torch.Tensor, d: float) -> torch.Tensor:
        """Returns the stored value of a column."""
        place = self.column_at[column]
        group = place // self.width
        zero_N = self.zero_GN[group] if self.has_zero else None
        self.codes_KN[place], value_N = self.levels.round(w_N, self.scale_GN[group], zero_N)
        return value_N

    def _keep(self, groups: slice, fitted: ranges.Range) -> None:
        self.scale_GN[groups] = fitted.scale_NG.T
        if fitted.zero_NG is not None:
            self.zero_GN[groups] = fitted.zero_NG.T
            self.has_zero = True
