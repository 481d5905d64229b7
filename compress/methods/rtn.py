"""Round to nearest: one scale per group, without calibration. The baseline that every other method must beat.

Shape letters: N out features, K in features, G groups of g consecutive in features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from compress.calibration.stats import LayerStats
from compress.format.packed import PackedTensor
from compress.numerics import grid, weight_grids

KIND = "pack"
NEEDS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of round to nearest."""

    bits: int = 4
    """Bits of one code, 2 to 8."""
    group_size: int | None = None
    """Input features that share one scale: a divisor of the width, or -1 for the whole row. Not given: 128, or the next
    of 64, 32 and 16 that divides the width; the whole row with int8 activations."""
    symmetric: bool = True
    """True: zero is the middle code and only scales are stored. False: min to max of the group, with a zero point."""
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


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat."""
    weight_grids.width(shape[1], config)


def needs(config: Config) -> frozenset[str]:
    """Returns the statistics that are read: the greatest input, where the scale of inputs comes from calibration."""
    return frozenset({"peak"}) if config.activations in weight_grids.CALIBRATED else NEEDS


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
    """Returns the weight rounded to the nearest code of its group, as an int_group.v1, float_group.v1 or super_block.v1
    tensor.

    Args:
        w_NK: the weight, float [N, K].
        stats: `peak` is read where the scale of the inputs comes from calibration.
        config: options.

    Raises:
        MethodError: a weight is not finite, or the options do not fit the shape.
    """
    grid.check_finite(w_NK)
    out_features, in_features = w_NK.shape
    width = weight_grids.width(in_features, config)
    w_NGg = w_NK.float().reshape(out_features, in_features // width, width)
    levels = weight_grids.make(config, w_NK)
    fitted = levels.fit(w_NGg, None, search=False)
    packed = levels.pack(weight_grids.nearest(levels, w_NGg, fitted), fitted.scale_NG, fitted.zero_NG)
    return weight_grids.with_activations(packed, config, stats.peak if stats else 0.0)
