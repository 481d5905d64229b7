"""Runs dense.v1 parts with torch's dense product.

Shape letters: N out features, K in features of the part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme


def reject(scheme: Scheme, shape: tuple[int, int]) -> str | None:
    """Returns None: all dtypes run."""
    return None


def plan(scheme: Scheme, shape: tuple[int, int]) -> Dense:
    """Returns how a part runs."""
    return Dense()


@dataclass(frozen=True, slots=True)
class Dense:
    """The plan of a dense part; see `plan.Plan`."""

    @property
    def operands(self) -> int:
        """One tensor: the weight [N, K]."""
        return 1

    def prepare(self, packed: PackedTensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Returns the weight in `dtype`."""
        return (packed.planes["weight"].to(dtype),)

    def product(self, x_MK: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        """Returns the dense product."""
        return torch.nn.functional.linear(x_MK, operands[0], bias)

    def weight(self, operands: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Returns the weight as it was prepared."""
        return operands[0].to(dtype)
