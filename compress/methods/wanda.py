"""Wanda n:m: keeps the weights with the largest product of magnitude and input norm, unchanged.

Source: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", arXiv 2306.11695 §3: the
score is |w| · ‖x‖₂, compared within every m inputs of a row.

Differs from the paper in: a linear that no calibration token reached is pruned by magnitude.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from compress.calibration.stats import LayerStats
from compress.format.packed import PackedTensor
from compress.numerics import grid, nm

KIND = "pack"
NEEDS: frozenset[str] = frozenset({"gram_KK"})
COMPOSES = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of Wanda."""

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
    """Returns the n weights with the highest scores of every m as a sparse_nm.v1 tensor.

    Args:
        w_NK: the weight, float [N, K].
        stats: sums over the inputs of the linear; the diagonal of `gram_KK`, float32 [K, K], is read.
        config: options.

    Raises:
        MethodError: a weight is not finite, or the options do not fit the shape.
    """
    assert stats is not None, "Wanda needs the norms of the inputs"
    grid.check_finite(w_NK)
    score_NK = w_NK.abs()
    if stats.num_tokens > 0:
        score_NK = score_NK * stats.gram_KK.diagonal().sqrt()
    return nm.pack(w_NK, nm.mask_nm(score_NK, config.n, config.m), config.n, config.m)
