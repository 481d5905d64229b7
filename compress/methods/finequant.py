"""FineQuant: rounds to nearest, in the coarsest groups that the outliers of the fused matrices allow; no calibration.

Source: Kim et al., "FineQuant: Unlocking Efficiency with Fine-Grained Weight-Only Quantization for LLMs",
arXiv 2308.09723 §3. The group is halved as long as that narrows the mean range of the groups by enough.

Differs from the paper in:
- the paper gives no threshold for "enough": α = 0.88 separates Gaussian rows (whose range falls by 4 to 10 % per
  halving) from rows with outliers (15 to 40 %);
- all sizes are tried: one halving that gains little does not hide a gain below it;
- a matrix in which single rows have an outlying range gets the finest size at once (`outlier_guard`);
- all matrices that share an input get one size, since engines fuse them, and by default only sizes that engines support
  are used: the whole row, 128, 64, 32.

Shape letters: N out features, K in features, G groups of g columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format.layouts import int_group
from compress.format.packed import PackedTensor
from compress.numerics import grid, ranges

KIND = "pack"
NEEDS: frozenset[str] = frozenset()
_SERVED = (128, 64, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of FineQuant."""

    bits: int = 4
    """Bits of one code, 2 to 8; the paper has 3, 4 and 8."""
    group_size: int | None = None
    """Input features that share one scale, for all linears; -1: the whole row. Not given: chosen for each set of fused
    linears."""
    smallest_group: int = 32
    """Smallest group size that may be chosen, 8 or more."""
    alpha: float = 0.88
    """A group is halved when the mean range falls to at most this share, 0 to 1; smaller values keep groups coarser."""
    outlier_guard: float = 8.0
    """Ratio of the greatest to the median row range above which the finest size is taken; inf for never."""
    served_sizes: bool = True
    """Chooses among the whole row, 128, 64 and 32 only; off: among all halvings of the width."""
    symmetric: bool = True
    """True: zero is the middle code and only scales are stored. False: a zero point is stored too."""
    scale_dtype: str = "auto"
    """Dtype of the scales, in which the codes are chosen: float16, bfloat16 or float32; auto: float16, or float32 where
    scales leave its range. Engines hold scales in the dtype of the model: give that one to export without rounding."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise MethodError(f"bits={self.bits}", allowed="2 to 8")
        grid.scale_dtype(self.scale_dtype)
        if self.smallest_group < 8:
            raise MethodError(f"smallest_group={self.smallest_group}", allowed="8 or more")
        if not 0 < self.alpha < 1:
            raise MethodError(f"alpha={self.alpha}", allowed="between 0 and 1")
        if not self.outlier_guard > 1:
            raise MethodError(f"outlier_guard={self.outlier_guard}", allowed="more than 1, or inf")


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat."""
    if config.group_size is not None:
        grid.group_width(shape[1], config.group_size)


def shared(weights: Sequence[torch.Tensor], config: Config) -> Config:
    """Returns `config` with one group size for weights [N, K] of one input: the finest that any of them needs."""
    if config.group_size is not None:
        return config
    return replace(config, group_size=min(_size(w_NK.float(), config) for w_NK in weights))


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Returns the weight rounded to nearest in groups of the chosen size, as an int_group.v1 tensor.

    Args:
        w_NK: the weight, float [N, K].
        stats: not read.
        config: options.

    Raises:
        MethodError: a weight is not finite, or the options do not fit the shape.
    """
    grid.check_finite(w_NK)
    out_features, in_features = w_NK.shape
    width = grid.group_width(in_features, shared([w_NK], config).group_size)
    w_NGg = w_NK.float().reshape(out_features, in_features // width, width)
    fitted = ranges.extremes(w_NGg, config.bits, config.symmetric, grid.scale_dtype(config.scale_dtype))
    codes_NK = ranges.codes(w_NGg, fitted, config.bits)
    return int_group.pack(codes_NK, fitted.scale_NG, fitted.zero_NG, bits=config.bits)


def _size(w_NK: torch.Tensor, config: Config) -> int:
    """Returns the group size for one matrix; the width itself is the whole row."""
    sizes = _ladder(w_NK.shape[1], config)
    range_N = _ranges(w_NK, w_NK.shape[1], config.symmetric)[:, 0]
    if float(range_N.max()) > config.outlier_guard * float(range_N.median()):
        return sizes[-1]
    chosen, range_of_chosen = sizes[0], float(range_N.mean())
    for size in sizes[1:]:
        mean_range = float(_ranges(w_NK, size, config.symmetric).mean())
        halvings = math.log2(chosen / size)
        if mean_range <= config.alpha**halvings * range_of_chosen:
            chosen, range_of_chosen = size, mean_range
    return chosen


def _ladder(width: int, config: Config) -> list[int]:
    """Returns the sizes to choose among, coarse to fine, the whole row first; a size must divide the width."""
    if config.served_sizes:
        finer = [size for size in _SERVED if size < width and width % size == 0]
    else:
        finer = [width >> n for n in range(1, width.bit_length()) if width % (1 << n) == 0]
    return [width, *(size for size in finer if size >= config.smallest_group)]


def _ranges(w_NK: torch.Tensor, size: int, symmetric: bool) -> torch.Tensor:
    """Returns the range of every group [N, G]."""
    w_NGg = w_NK.reshape(w_NK.shape[0], -1, size)
    range_NG: torch.Tensor = 2 * w_NGg.abs().amax(-1) if symmetric else w_NGg.amax(-1) - w_NGg.amin(-1)
    return range_NG
