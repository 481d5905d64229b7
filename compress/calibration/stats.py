"""LayerStats: what a method may know about the inputs of a linear. Two shards merge by `+`.

Shape letters: T tokens, K in features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(slots=True)
class LayerStats:
    """Sums over the calibration tokens that a linear received."""

    num_tokens: int
    """Tokens summed over; for an expert, the tokens that were routed to it."""
    gram_KK: torch.Tensor  # noqa: N815
    """Gram matrix Σ x xᵀ, float32 [K, K]; each chunk is multiplied in float32 and the chunks are few."""

    @classmethod
    def empty(cls, in_features: int, device: torch.device | str = "cpu") -> LayerStats:
        """Returns the statistics of no token."""
        return cls(0, torch.zeros(in_features, in_features, device=device))

    def update(self, x_TK: torch.Tensor) -> None:
        """Adds the rows of `x_TK` (any float dtype, any leading shape) in place."""
        x_TK = x_TK.reshape(-1, x_TK.shape[-1]).float()
        self.gram_KK.addmm_(x_TK.T, x_TK)
        self.num_tokens += x_TK.shape[0]

    def __add__(self, other: LayerStats) -> LayerStats:
        return LayerStats(self.num_tokens + other.num_tokens, self.gram_KK + other.gram_KK)
