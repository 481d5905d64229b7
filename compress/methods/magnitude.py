"""Magnitude n:m: keeps the n largest of every m weights, without calibration. The baseline of the sparse methods.

The pattern is that of Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch",
arXiv 2102.04010 §3.1. Kept weights are stored in bfloat16 with their places: 9 bits per weight at 2:4.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compress.calibration.stats import LayerStats
from compress.format.packed import PackedTensor
from compress.numerics import grid, nm

KIND = "pack"
NEEDS: frozenset[str] = frozenset()
COMPOSES = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of magnitude n:m."""

    n: int = 2
    """Weights kept of every `m` consecutive inputs of a row, 1 to m - 1."""
    m: int = 4
    """Input features of a group, up to 256; must divide the input width."""

    def __post_init__(self) -> None:
        nm.check_pattern(self.n, self.m)


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat."""
    nm.check_width(shape[1], config.m)


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Returns the n largest weights of every m as a sparse_nm.v1 tensor.

    Args:
        w_NK: the weight, float [N, K].
        stats: not read.
        config: options.

    Raises:
        MethodError: a weight is not finite, or the options do not fit the shape.
    """
    grid.check_finite(w_NK)
    return nm.pack(w_NK, nm.mask_nm(w_NK.abs(), config.n, config.m), config.n, config.m)
