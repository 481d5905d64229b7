"""Runs low_rank.v1 in Triton as two products, one per factor.

Shape letters: N out features, K in features, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compress.format import layouts
from compress.format.layouts import composing
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.kernels.triton import plan as plans


def reject(scheme: Scheme, shape: tuple[int, int]) -> str | None:
    """Returns why a factor cannot run, or None."""
    for name, part, size in _parts(scheme, shape):
        if reason := plans.reject(part, size):
            return f"factor {name}: {reason}"
    return None


def plan(scheme: Scheme, shape: tuple[int, int]) -> Product:
    """Returns how a tensor of this scheme and shape runs."""
    left, right = (plans.plan(part, size) for _, part, size in _parts(scheme, shape))
    return Product(left, right)


def _parts(scheme: Scheme, shape: tuple[int, int]) -> tuple[tuple[str, Scheme, tuple[int, int]], ...]:
    rank = scheme.options["rank"]
    left, right = (composing.part_scheme(scheme, part) for part in ("left", "right"))
    return ("left", left, (shape[0], rank)), ("right", right, (rank, shape[1]))


@dataclass(frozen=True, slots=True)
class Product:
    """The plan of L [N, r] · R [r, K]; see `plan.Plan`."""

    left: plans.Plan
    right: plans.Plan

    @property
    def operands(self) -> int:
        """How many tensors `prepare` returns: those of the right factor, then of the left one."""
        return self.left.operands + self.right.operands

    def prepare(self, packed: PackedTensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Returns the operands of both factors."""
        parts = layouts.parts(packed)
        return *self.right.prepare(parts["right"], dtype), *self.left.prepare(parts["left"], dtype)

    def product(self, x_MK: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        """Returns x · Rᵀ · Lᵀ; the inner product is rounded to the dtype of x."""
        inner_Mr = self.right.product(x_MK, operands[: self.right.operands], None)
        return self.left.product(inner_Mr, operands[self.right.operands :], bias)

    def weight(self, operands: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Returns the weight [N, K]."""
        right = self.right.weight(operands[: self.right.operands], torch.float32)
        left = self.left.weight(operands[self.right.operands :], torch.float32)
        return composing.product(left, right).to(dtype)
