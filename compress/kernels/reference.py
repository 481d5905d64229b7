"""Holds the reference kernel: `layouts.unpack`, then a dense product. Runs every layout, dtype and device.

A low-rank weight runs as two products. Where the scheme rounds the inputs, `format.rounded_product` is the product.

Shape letters: N out features, K in features, r rank of a low-rank weight.
"""

from __future__ import annotations

import torch

from compress.format import activations, layouts, rounded_product
from compress.format.layouts import low_rank
from compress.format.packed import PackedTensor
from compress.format.rounded_product import RoundedProduct
from compress.format.scheme import Scheme


def reject(scheme: Scheme, shape: tuple[int, int], device: torch.device) -> str | None:
    """Returns why this kernel cannot run such a tensor on `device`, or None; the reference always can."""
    return None


def prepare(packed: PackedTensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...] | RoundedProduct:
    """Returns what `linear` works on: the weight [N, K] in the dtype of the inputs, on the device of the planes.

    It takes the memory of the dense layer, N·K elements of `dtype`, in addition to the planes. For a low-rank weight it
    returns both factors, [r, K] and [N, r].
    """
    if activations.kind_of(packed.scheme):
        return rounded_product.prepare(packed, dtype)
    parts = layouts.parts(packed) if packed.scheme.layout == low_rank.LAYOUT else {}
    factors = (parts["right"], parts["left"]) if parts else (packed,)
    return tuple(layouts.unpack(factor).to(dtype) for factor in factors)


def linear(
    x: torch.Tensor, operands: tuple[torch.Tensor, ...] | RoundedProduct, bias: torch.Tensor | None
) -> torch.Tensor:
    """Returns x [..., K] times the prepared weight, plus `bias` [N]: [..., N] in the dtype of `x`."""
    if isinstance(operands, RoundedProduct):
        return operands(x, bias)
    *first, last = operands
    for weight in first:
        x = torch.nn.functional.linear(x, weight)
    return torch.nn.functional.linear(x, last, bias)
