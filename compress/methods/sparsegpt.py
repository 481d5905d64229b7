"""SparseGPT n:m: prunes one input feature after the other and compensates each error in the features behind it.

Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
arXiv 2301.00774 §3: the mask of every m inputs is chosen when the sweep reaches them, from the compensated weights, by
w² / U_kk²; errors are compensated as in GPTQ (`numerics.sweep`).

Differs from the paper in:
- the rounding of kept weights to bfloat16 is compensated as well;
- inputs that were never active are pruned first, and keep their weights where the pattern leaves room; the published
  code sets all of them to zero.

Shape letters: N out features, K in features, g = m columns of a group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format.packed import PackedTensor
from compress.numerics import grid, nm, sweep

KIND = "pack"
NEEDS: frozenset[str] = frozenset({"gram_KK"})
COMPOSES = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of SparseGPT."""

    n: int = 2
    """Weights kept of every `m` consecutive inputs of a row, 1 to m - 1."""
    m: int = 4
    """Input features of a group, up to 256; must divide the input width."""
    damping: float = 0.01
    """Added to the diagonal of the Gram matrix, relative to its mean; 0 or more."""

    def __post_init__(self) -> None:
        nm.check_pattern(self.n, self.m)
        if not 0 <= self.damping < math.inf:
            raise MethodError(f"damping={self.damping}", allowed="0 or more")


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat."""
    nm.check_width(shape[1], config.m)


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Returns the weight as a sparse_nm.v1 tensor, fitted to the inputs that `stats` describes.

    Args:
        w_NK: the weight, float [N, K].
        stats: sums over the inputs of the linear; `gram_KK` float32 [K, K] is read.
        config: options.

    Raises:
        MethodError: a weight is not finite, or the options do not fit the shape.
    """
    assert stats is not None, "SparseGPT needs the Gram matrix of the inputs"
    grid.check_finite(w_NK)
    check((w_NK.shape[0], w_NK.shape[1]), config)
    upper_KK = sweep.inverse_factor(stats.gram_KK, None, config.damping)
    # without a token there is no input to tell from another, so none counts as dead
    active_K = (stats.gram_KK.diagonal() > 0) | (stats.num_tokens == 0)
    pruner = _Pruner(w_NK, active_K, config)
    sweep.sweep(w_NK.float().T.contiguous(), upper_KK, config.m, pruner)
    return nm.pack(pruner.value_KN.T, pruner.mask_KN.T, config.n, config.m)


class _Pruner:
    """Keeps the masks and values [K, N] that the sweep produces."""

    def __init__(self, w_NK: torch.Tensor, active_K: torch.Tensor, config: Config) -> None:
        self.config, self.active_K = config, active_K
        self.value_KN = torch.empty(w_NK.shape[1], w_NK.shape[0], device=w_NK.device)
        self.mask_KN = torch.empty(self.value_KN.shape, dtype=torch.bool, device=w_NK.device)

    def start_group(self, group: int, w_gN: torch.Tensor, d_g: torch.Tensor) -> None:
        """Chooses the weights of a group that are kept: those whose pruning would cost most."""
        columns = slice(group * self.config.m, (group + 1) * self.config.m)
        cost_gN = (w_gN / d_g[:, None]).square() * self.active_K[columns, None]
        self.mask_KN[columns] = nm.mask_nm(cost_gN.T, self.config.n, self.config.m).T

    def round(self, column: int, w_N: torch.Tensor, d: float) -> torch.Tensor:
        """Returns the stored value of a column: zero where it is pruned."""
        self.value_KN[column] = (w_N * self.mask_KN[column]).to(torch.bfloat16)
        return self.value_KN[column]
