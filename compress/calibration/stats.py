"""Holds the sums over the calibration inputs of one linear (LayerStats). Methods see no other calibration data.

Shape letters: T tokens, K in features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_STRIPES = 6
"""Stripes of rows that a Gram matrix is computed in, each from its diagonal on: 7/12 of the work of the whole."""
_STRIPE_ROWS = 64
"""Least rows of a stripe: below it, products are too small to be fast."""


@dataclass(slots=True)
class LayerStats:
    """Sums over the calibration tokens that a linear received. The sums of two sets of tokens are added with `+`."""

    num_tokens: int
    """Number of tokens; for an expert, of those that were routed to it."""
    gram_KK: torch.Tensor  # noqa: N815
    """Gram matrix Σ x xᵀ, float32 [K, K], symmetric to the last bit. One product per micro-batch: too few additions for
    float32 to lose digits."""
    peak: float = 0.0
    """Greatest magnitude of an input."""

    @classmethod
    def empty(cls, in_features: int, device: torch.device | str = "cpu") -> LayerStats:
        """Returns the statistics of no token."""
        return cls(0, torch.zeros(in_features, in_features, device=device))

    def update(self, x_TK: torch.Tensor) -> None:
        """Adds the rows of `x_TK` (any float dtype, any leading shape) in place."""
        x_TK = x_TK.reshape(-1, x_TK.shape[-1]).float()
        width = x_TK.shape[1]
        rows = max(_STRIPE_ROWS, -(-width // _STRIPES))
        for start in range(0, width, rows):
            stop = min(start + rows, width)
            self.gram_KK[start:stop, start:].addmm_(x_TK[:, start:stop].T, x_TK[:, start:])
            self.gram_KK[stop:, start:stop] = self.gram_KK[start:stop, stop:].T
        self.num_tokens += x_TK.shape[0]
        if x_TK.numel():
            self.peak = max(self.peak, float(x_TK.abs().amax()))

    def __add__(self, other: LayerStats) -> LayerStats:
        return LayerStats(self.num_tokens + other.num_tokens, self.gram_KK + other.gram_KK, max(self.peak, other.peak))
