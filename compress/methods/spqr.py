"""SpQR: small low-bit groups with quantised scales and zeros; the most sensitive weights are kept as sparse deltas.

Source: Dettmers et al., "SpQR: A Sparse-Quantized Representation", arXiv 2306.03078, Alg. 1 and §4.

Differs from the paper in:
- the codes of scales and zeros are searched (`search_stats`): of all levels that a run of rows can express, the one
  with the least robust error Σ min(e²/d², τ) is kept, where e is the rounding error, d the diagonal of U
  (`numerics.sweep`) and τ the price of an outlier; the paper rounds them to the nearest level;
- the leave-one-out test tries only the least and the greatest weight of a group: dropping any other one leaves the
  range as it is, so the decision is the same for a fraction of the work;
- an outlier is stored as the difference to its dequantised code, and the stored value is what errors are compensated
  for, so that the evaluated model is the stored one;
- the weights of an input that was never active are rounded to nearest; the published code sets them to zero;
- `layer_bits` searches the threshold by the bits that are really stored.

Shape letters: N out features, K in features, G groups of g columns, R runs of rows, L levels of a statistic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format.layouts import spqr
from compress.format.packed import PackedTensor
from compress.numerics import grid, sweep

KIND = "pack"
NEEDS: frozenset[str] = frozenset({"gram_KK"})
_THRESHOLD = 0.2
"""Outlier threshold at 3 bits and more. Below, squared errors are four times as large for each bit, and so is it: else
outliers would take more bits than the codes save."""
_THRESHOLDS = (1e-4, 64.0)
"""Range of the search for a threshold."""
_SHIFT = 12
"""Octaves by which the unit of scales and deltas is lowered below the greatest weight where small scales need it;
float16 still holds eight times that weight."""
_GREATEST_ZERO = 2048.0
"""Greatest distance of a zero from the codes: beyond it, float16 has no whole steps of a code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of SpQR."""

    bits: int = 3
    """Bits of one code, 2 to 8."""
    group_size: int = 16
    """Input features that share a scale and a zero; must divide the input width."""
    stats_bits: int = 3
    """Bits of the codes of scales and zeros, 1 to 8."""
    stats_group: int = 16
    """Output features whose scales and zeros share one second-level range; 1 or more."""
    threshold: float | None = None
    """Outlier threshold τ relative to the layer's mean sensitivity; smaller keeps more outliers, inf none. None: 0.2,
    and 0.8 at 2 bits."""
    layer_bits: float | None = None
    """Greatest stored bits per weight; the threshold is searched to meet it, starting from the given one."""
    damping: float = 0.01
    """Added to the diagonal of the Gram matrix, relative to its mean; 0 or more."""
    act_order: bool = True
    """Rounds the most active input features first; their order is stored, 16 bits per input feature."""
    search_stats: bool = True
    """Chooses the codes of scales and zeros by the error they cause; off: rounds to the nearest."""

    def __post_init__(self) -> None:
        for name, low, high in (("bits", 2, 8), ("stats_bits", 1, 8)):
            if not low <= getattr(self, name) <= high:
                raise MethodError(f"{name}={getattr(self, name)}", allowed=f"{low} to {high}")
        if self.stats_group < 1:
            raise MethodError(f"stats_group={self.stats_group}", allowed="1 or more rows")
        if not self.used_threshold > 0:
            raise MethodError(f"threshold={self.threshold}", allowed="more than 0, or inf for no outliers")
        if not 0 <= self.damping < math.inf:
            raise MethodError(f"damping={self.damping}", allowed="0 or more")

    @property
    def used_threshold(self) -> float:
        """The threshold that is given, or the one that suits the bits."""
        return _THRESHOLD * 4.0 ** max(0, 3 - self.bits) if self.threshold is None else self.threshold


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat."""
    grid.divisor(shape[1], config.group_size)


def candidates(config: Config) -> list[dict[str, Any]]:
    """Returns widths without outliers and with some, coarse to fine."""
    some = _THRESHOLD if config.threshold is None else config.threshold
    pairs = ((2, math.inf), (2, 5 * some), (3, math.inf), (3, some), (4, math.inf), (4, some), (5, some), (6, some))
    return [{"bits": bits, "threshold": threshold, "layer_bits": None} for bits, threshold in pairs]


def nominal(bits: int) -> dict[str, Any]:
    """Returns the options of SpQR at `bits` bits: wide groups and few outliers, so that the stored bits stay near."""
    return {"bits": bits, "group_size": 64, "threshold": 2.0}


def pinned(config: Config, packed: PackedTensor) -> dict[str, Any]:
    """Returns the bits that the linear took as its limit: on other inputs, other weights are outliers."""
    return {"layer_bits": packed.bits_per_weight} if packed.scheme.outliers else {}


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Returns the weight as an spqr.v1 tensor, fitted to the inputs that `stats` describes.

    Args:
        w_NK: the weight, float [N, K].
        stats: sums over the inputs of the linear; `gram_KK` float32 [K, K] is read.
        config: options.

    Raises:
        MethodError: a weight is not finite, the options do not fit the shape, the Gram matrix cannot be
            factorised with this damping, or no threshold meets `layer_bits`.
    """
    assert stats is not None, "SpQR needs the Gram matrix of the inputs"
    grid.check_finite(w_NK)
    grid.divisor(w_NK.shape[1], config.group_size)
    order_K = sweep.column_order(stats.gram_KK, config.act_order)
    upper_KK = sweep.inverse_factor(stats.gram_KK, order_K, config.damping)
    w_KN = (w_NK if order_K is None else w_NK[:, order_K]).float().T.contiguous()
    if config.layer_bits is not None:
        config = _search_threshold(w_KN, upper_KK, config)
    return _solve(w_KN, upper_KK, order_K, config)


def _solve(w_KN: torch.Tensor, upper_KK: torch.Tensor, order_K: torch.Tensor | None, config: Config) -> PackedTensor:
    """Returns the packed tensor for one threshold; `w_KN` has its columns in stored order."""
    rounder = _Rounder(w_KN, upper_KK, config)
    sweep.sweep(w_KN.clone(), upper_KK, config.group_size, rounder)
    back_K = slice(None) if order_K is None else order_K.argsort()
    return spqr.pack(
        rounder.codes_KN.T,
        rounder.code_GN["scale"].T,
        rounder.code_GN["zero"].T,
        {name: plane.T for name, plane in rounder.second_level.items()},
        bits=config.bits,
        stats_bits=config.stats_bits,
        stats_group=config.stats_group,
        exponent=rounder.exponent,
        perm_K=order_K,
        outlier_NK=rounder.outlier_KN[back_K].T,
        delta_NK=rounder.delta_KN[back_K].T,
    )


class _Rounder:
    """Fits scales and zeros group by group and rounds columns; keeps all results in stored column order."""

    def __init__(self, w_KN: torch.Tensor, upper_KK: torch.Tensor, config: Config):
        width, rows = w_KN.shape
        groups, runs = width // config.group_size, -(-rows // config.stats_group)
        self.config, self.top = config, float(2**config.bits - 1)
        # An error e of a weight costs e²/d² (`numerics.sweep`). The threshold is relative to the mean over the columns
        # of Var_rows(w) / d², the cost of setting a weight to the mean, so that one value suits all layers.
        variance_K = w_KN.var(1, unbiased=rows > 1)
        mean_sensitivity = float((variance_K / upper_KK.diagonal().square()).mean())
        self.price = config.used_threshold * mean_sensitivity if mean_sensitivity > 0 else math.inf
        self.exponent, self.flat = self._unit_of(w_KN)
        self.unit = 2.0**self.exponent
        self.codes_KN = torch.empty(width, rows, dtype=torch.uint8, device=w_KN.device)
        self.outlier_KN = torch.zeros(width, rows, dtype=torch.bool, device=w_KN.device)
        self.delta_KN = torch.zeros(width, rows, dtype=torch.float16, device=w_KN.device)
        self.code_GN = {
            name: torch.empty(groups, rows, dtype=torch.uint8, device=w_KN.device) for name in ("scale", "zero")
        }
        self.second_level = {
            name: torch.empty(groups, runs, dtype=torch.float16, device=w_KN.device) for name in spqr.SECOND_LEVEL
        }
        self.run_N = torch.arange(rows, device=w_KN.device) // config.stats_group
        self.scale_N = self.zero_N = w_KN[0]

    def _unit_of(self, w_KN: torch.Tensor) -> tuple[int, float]:
        """Returns the exponent of the unit that scales and deltas are stored in, and a range for constant groups.

        The unit is the power of two below the greatest weight, whatever the magnitude of the layer is. One huge weight
        would leave the scales of all other rows below what float16 holds; then the unit is lowered by `_SHIFT` octaves.
        """
        peak = float(w_KN.abs().max())
        exponent = math.floor(math.log2(peak)) if peak > 0 else 0
        w_GgN = w_KN.reshape(-1, self.config.group_size, w_KN.shape[1])
        range_GN = w_GgN.amax(1) - w_GgN.amin(1)
        least = float(range_GN[range_GN > 0].min()) / self.top if range_GN.any() else math.inf
        shifted = exponent - _SHIFT if least < 2.0 ** (exponent - _SHIFT) else exponent
        return max(-120, shifted), 2.0 ** max(-120, exponent)

    def start_group(self, group: int, w_gN: torch.Tensor, d_g: torch.Tensor) -> None:
        """Fits scale and zero of every row to the group's weights: range, scale, then the zero for that scale."""
        low_N, high_N = self._range_without_outliers(w_gN, d_g)
        # a constant group has no range: with any scale, code 0 and the zero −low/scale give its value
        flat_N = high_N <= low_N
        high_N = torch.where(flat_N, low_N + self.flat, high_N)

        def zero_for(scale: torch.Tensor) -> torch.Tensor:
            # the stored scale is not quite the ideal one: the middle of the codes meets the middle of the range
            zero = torch.where(flat_N, -low_N / scale, self.top / 2 - (low_N + high_N) / (2 * scale))
            return zero.clamp_(-_GREATEST_ZERO, _GREATEST_ZERO)

        weight_g1 = d_g.square().reciprocal()[:, None]  # what a squared error of each column costs
        # the scale first: of the levels that its run can express, the one with the least error at the ideal zero
        # a group far from zero for its range gets a coarser scale, with which its zero can be stored
        wanted_N = torch.maximum((high_N - low_N) / self.top, (low_N + high_N).abs() / (2 * _GREATEST_ZERO))
        level_LN = self._levels("scale", group, wanted_N / self.unit) * self.unit
        if self.config.search_stats:
            code_N = self._best(w_gN, weight_g1, level_LN, zero_for(level_LN))
        else:
            code_N = (level_LN - wanted_N).abs().argmin(0)
        self.scale_N = self._keep("scale", group, level_LN, code_N)
        # then the zero, for the scale as it is stored
        level_LN = self._levels("zero", group, zero_for(self.scale_N))
        if self.config.search_stats:
            code_N = self._best(w_gN, weight_g1, self.scale_N.expand_as(level_LN), level_LN)
        else:
            code_N = (level_LN - zero_for(self.scale_N)).abs().argmin(0)
        self.zero_N = self._keep("zero", group, level_LN, code_N)

    def round(self, column: int, w_N: torch.Tensor, d: float) -> torch.Tensor:
        """Returns the stored value of the column: its dequantised code, plus the stored delta where that pays."""
        code_N = (w_N / self.scale_N).add_(self.zero_N).round_().clamp_(0, self.top)
        self.codes_KN[column] = code_N
        value_N = code_N.sub_(self.zero_N).mul_(self.scale_N)
        if self.price == math.inf:
            return value_N
        residual_N = w_N - value_N
        # worth an outlier where the error costs more than the price: e²/d² > τ
        outlier_N = torch.gt(residual_N.abs(), math.sqrt(self.price) * d, out=self.outlier_KN[column])
        delta_N = torch.mul(residual_N, outlier_N / self.unit).to(torch.float16)
        self.delta_KN[column] = delta_N
        return value_N.add_(delta_N.float(), alpha=self.unit)

    def _range_without_outliers(self, w_gN: torch.Tensor, d_g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the range of each row without an extreme weight that costs more in the range than as an outlier.

        The leave-one-out test of the paper: the error of all others with the range that they would have alone.
        """
        if self.price == math.inf or w_gN.shape[0] < 3:
            return w_gN.amin(0), w_gN.amax(0)
        (low_2N, at_low_2N), (high_2N, at_high_2N) = w_gN.topk(2, dim=0, largest=False), w_gN.topk(2, dim=0)
        weight_gN = d_g.square().reciprocal()[:, None].expand_as(w_gN)

        def error(low_N: torch.Tensor, high_N: torch.Tensor, without_N: torch.Tensor | None) -> torch.Tensor:
            scale_N = ((high_N - low_N) / self.top).clamp_min_(torch.finfo(torch.float32).tiny)
            value_gN = ((w_gN - low_N) / scale_N).round_().clamp_(0, self.top).mul_(scale_N).add_(low_N)
            error_gN = value_gN.sub_(w_gN).square_().mul_(weight_gN)
            return error_gN.sum(0) if without_N is None else error_gN.sum(0) - error_gN.gather(0, without_N[None])[0]

        base_N = error(low_2N[0], high_2N[0], None)
        drop_low = base_N - error(low_2N[1], high_2N[0], at_low_2N[0]) > self.price
        drop_high = base_N - error(low_2N[0], high_2N[1], at_high_2N[0]) > self.price
        return torch.where(drop_low, low_2N[1], low_2N[0]), torch.where(drop_high, high_2N[1], high_2N[0])

    def _levels(self, name: str, group: int, wanted_N: torch.Tensor) -> torch.Tensor:
        """Returns the values [L, N] that each row's statistic can take, once its run's range is stored in float16.

        A run of `stats_group` rows shares the minimum and the step of its levels in each group of columns.
        """
        runs = self.second_level[f"{name}_min"].shape[1]
        low_R = wanted_N.new_full((runs,), math.inf).scatter_reduce_(0, self.run_N, wanted_N, "amin")
        high_R = wanted_N.new_full((runs,), -math.inf).scatter_reduce_(0, self.run_N, wanted_N, "amax")
        top = 2**self.config.stats_bits - 1
        low_R, step_R = low_R.to(torch.float16), ((high_R - low_R) / top).to(torch.float16)
        if name == "scale":  # a scale of zero would divide by zero; subnormal minima round to it
            low_R = low_R.clamp_min(torch.finfo(torch.float16).tiny)
        self.second_level[f"{name}_min"][group], self.second_level[f"{name}_step"][group] = low_R, step_R
        level_L1 = torch.arange(top + 1, device=wanted_N.device, dtype=torch.float32)[:, None]
        level_LN: torch.Tensor = low_R.float()[self.run_N] + step_R.float()[self.run_N] * level_L1
        return level_LN

    def _best(
        self,
        w_gN: torch.Tensor,
        weight_g1: torch.Tensor,
        scale_LN: torch.Tensor,
        zero_LN: torch.Tensor,
    ) -> torch.Tensor:
        """Returns for each row the level with the least robust error: no weight costs more than an outlier would."""
        scale_L1N, zero_L1N = scale_LN[:, None], zero_LN[:, None]
        value = (w_gN / scale_L1N).add_(zero_L1N).round_().clamp_(0, self.top).sub_(zero_L1N).mul_(scale_L1N)
        cost_LgN = value.sub_(w_gN).square_().mul_(weight_g1)
        if self.price != math.inf:
            cost_LgN.clamp_max_(self.price)
        return cost_LgN.sum(1).argmin(0)

    def _keep(self, name: str, group: int, level_LN: torch.Tensor, code_N: torch.Tensor) -> torch.Tensor:
        """Records the codes of a statistic and returns its values [N]."""
        self.code_GN[name][group] = code_N
        return level_LN.gather(0, code_N[None])[0]


def _search_threshold(w_KN: torch.Tensor, upper_KK: torch.Tensor, config: Config) -> Config:
    """Returns `config` with about the least threshold whose packed size is at most `layer_bits` per weight.

    Growing steps from the given threshold find a bracket, which is then halved. A threshold that is nearly right, as
    mixed precision gives it, costs a sweep or two.
    """
    limit = config.layer_bits
    assert limit is not None
    width, rows = w_KN.shape
    order_K = torch.arange(width, device=w_KN.device) if config.act_order else None

    def bits_at(threshold: float) -> float:
        return _solve(w_KN, upper_KK, order_K, replace(config, threshold=threshold)).bits_per_weight

    least, most = _THRESHOLDS
    low, high = 0.0, math.inf  # too many bits at low, few enough at high
    tried, step = config.used_threshold if least <= config.used_threshold <= most else _THRESHOLD, 1.1
    while low < most and high > least and high > low * 1.001:
        bits = bits_at(tried)
        low, high = (tried, high) if bits > limit else (low, tried)
        if limit - 0.01 <= bits <= limit:
            break
        if low > 0 and high < math.inf:
            tried = math.sqrt(low * high)
        else:
            tried, step = (min(most, tried * step) if low > 0 else max(least, tried / step)), step * step
    if high == math.inf and (floor := bits_at(math.inf)) > limit:
        raise MethodError(
            f"layer_bits={limit} is below the {floor:.3f} bits that {rows}x{width} weights take at "
            f"bits={config.bits}, group_size={config.group_size} without any outlier",
            do="Lower --bits, widen --group-size, or raise --layer-bits",
        )
    return replace(config, threshold=high)
