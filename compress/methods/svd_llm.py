"""SVD-LLM: replaces each weight by a low-rank product that changes the layer's outputs least.

Sources: Wang et al., "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression",
arXiv 2403.07378 §3.1, and "SVD-LLM V2", arXiv 2503.12340: its allocation of ratios (§3.1) and its truncation without a
Cholesky factor (§3.2).

Differs from the papers in:
- the same optimum is computed without the inverse of the whitening: the outputs are projected on their leading
  directions (`numerics.factors`), so inputs that are dead or linearly dependent are no special case;
- the statistics are those of the compressed path, so the truncation already does what the refit of the left factor on
  shifted inputs does (arXiv 2403.07378 §3.2); there remains a refit to the *rounded* right factor, kept where it lowers
  the error;
- ranks are multiples of `multiple`, and the ratio is met over all linears together;
- every linear is factored, even one that the allocation would leave nearly whole: its rank is then the largest that
  saves something;
- without damping the error on the calibration inputs is the exact minimum; the default damping gives up a little of it
  and does better on held-out text;
- factors are stored in two bytes per number; the published code stores four.

Shape letters: N out features, K in features, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format.layouts import dense, low_rank
from compress.format.packed import PackedTensor
from compress.numerics import factors, grid, ratios

KIND = "pack"
NEEDS: frozenset[str] = frozenset({"gram_KK"})
COMPOSES = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of SVD-LLM."""

    ratio: float = 0.2
    """Share of the linears' parameters to remove, above 0 and below 1."""
    whiten: bool = True
    """Minimises the error of the outputs; off: the error of the weight, plain SVD, the baseline."""
    allocate: bool = True
    """Measures each linear first and removes less from those that lose more (V2); off: `ratio` from every linear."""
    multiple: int = 8
    """Ranks are multiples of this, 1 or more; the group size of a following stage should divide it."""
    refit: bool = True
    """Fits the left factor to the stored right factor, where that lowers the error."""
    damping: float = 0.01
    """Added to the diagonal of the Gram matrix, relative to its mean; 0 or more. Raise it with little text."""
    dtype: str = "bfloat16"
    """Dtype of the stored factors: bfloat16, float16 or float32."""

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise MethodError(f"ratio={self.ratio}", allowed="above 0 and below 1", do="Give for instance --ratio 0.2")
        if self.multiple < 1:
            raise MethodError(f"multiple={self.multiple}", allowed="1 or more")
        if not 0 <= self.damping < math.inf:
            raise MethodError(f"damping={self.damping}", allowed="0 or more")
        if self.dtype not in dense.DTYPES:
            raise MethodError(f"dtype={self.dtype!r}", allowed=", ".join(dense.DTYPES))


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a `shape` (N, K) that rank 1 does not make smaller, or that `ratio` leaves no rank."""
    if low_rank.break_even(shape) < 1:
        raise MethodError(
            f"a weight of {shape[0]} × {shape[1]} is smaller than its factors of rank 1",
            do="Leave the layer dense with --skip",
        )
    if ratios.rank_of(shape, config.ratio, config.multiple) < 1:
        raise MethodError(
            f"ratio={config.ratio} leaves no rank for a weight of {shape[0]} × {shape[1]}",
            allowed=f"up to {ratios.ratio_of(shape, 1):.4f}",
            do="Lower --ratio, or leave the layer dense with --skip",
        )


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Returns the weight as a low_rank.v1 tensor of the rank that `ratio` leaves.

    Without tokens, or without `whiten`, it is the truncated SVD of the weight.

    Args:
        w_NK: the weight, float [N, K].
        stats: sums over the inputs of the linear; `gram_KK` float32 [K, K] is read.
        config: options.

    Raises:
        MethodError: a weight is not finite, or `ratio` leaves no rank.
    """
    shape = (w_NK.shape[0], w_NK.shape[1])
    gram_KK = _gram(stats, config)
    rank, dtype = ratios.rank_of(shape, config.ratio, config.multiple), dense.DTYPES[config.dtype]
    left_Nr, right_rK = factors.truncated(w_NK, _directions(w_NK, gram_KK, config), rank)
    right_rK = right_rK.to(dtype)
    kept_Nr = left_Nr.to(dtype)
    if config.refit and gram_KK is not None:
        fitted_Nr = factors.refitted(w_NK, right_rK, gram_KK, config.damping).to(dtype)
        before, after = (
            factors.lost(w_NK, one_Nr.double() @ right_rK.double(), gram_KK) for one_Nr in (kept_Nr, fitted_Nr)
        )
        kept_Nr = fitted_Nr if after < before else kept_Nr
    return low_rank.pack(dense.pack(kept_Nr), dense.pack(right_rK))


def measure(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> float:
    """Returns ‖(W − W')X‖ at `ratio`: the square root of the energy that is truncated."""
    rank = ratios.rank_of((w_NK.shape[0], w_NK.shape[1]), config.ratio, config.multiple)
    return math.sqrt(float(_directions(w_NK, _gram(stats, config), config).energy_D[rank:].sum()))


def allot(losses: Mapping[str, float], shapes: Mapping[str, tuple[int, int]], config: Config) -> dict[str, Any]:
    """Returns the ratio of each linear, given what `measure` returned for each; {} without `allocate`."""
    if not config.allocate:
        return {}
    shares = ratios.allot(losses, shapes, config.ratio, config.multiple)
    return {name: {"ratio": share} for name, share in shares.items()}


def _gram(stats: LayerStats | None, config: Config) -> torch.Tensor | None:
    return stats.gram_KK if stats is not None and stats.num_tokens > 0 and config.whiten else None


def _directions(w_NK: torch.Tensor, gram_KK: torch.Tensor | None, config: Config) -> factors.Directions:
    grid.check_finite(w_NK)
    return factors.directions(w_NK, gram_KK, config.damping)
