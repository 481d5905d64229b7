"""Magnitude n:m: keeps the largest weights of every m inputs, without data. The baseline of the sparse methods.

The pattern is that of Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch",
arXiv 2102.04010 §3.1. What is kept is stored in bfloat16, with its places: 9 bits per weight at 2:4.

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
    """Weights that are kept of every `m`, 1 or more and below `m`."""
    m: int = 4
    """Consecutive input features that make a group, up to 256; must divide the layer's input width."""

    def __post_init__(self) -> None:
        nm.check_pattern(self.n, self.m)


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a layer of `shape` (N, K) that these options cannot treat."""
    nm.check_width(shape[1], config.m)


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Returns `w_NK` (float [N, K]) as a sparse_nm.v1 tensor of its largest weights."""
    grid.check_finite(w_NK)
    return nm.pack(w_NK, nm.mask_nm(w_NK.abs(), config.n, config.m), config.n, config.m)
