"""Multiplies with a packed weight whose scheme rounds the inputs: what such a linear computes, by definition.

    int8                y = (Σ codes of x · codes of w) · scale of the token · scale of the row + bias; the sum is exact
    every other kind    y = rounded(x) · Wᵀ + bias, in the dtype of x

Shape letters: N out features, K in features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from compress.format import activations, layouts
from compress.format.layouts import int_group
from compress.format.packed import PackedTensor

_EXACT_WIDTH = 1024
"""Products of two codes below 2^14 in magnitude that a float32 adds up without rounding."""


@dataclass(frozen=True, slots=True)
class RoundedProduct:
    """A weight, ready to be multiplied with inputs that are rounded on the way."""

    kind: str
    weight_NK: torch.Tensor  # noqa: N815
    """The decoded weight in the dtype of the inputs; for `int8` its signed codes, float32."""
    scale_N: torch.Tensor | None  # noqa: N815
    """For `int8`: the scales of the rows, float32."""
    planes: dict[str, torch.Tensor]
    """The planes that `activations.PLANES` names."""

    def __call__(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Returns [..., N] in the dtype of `x` [..., K]; gradients pass the rounding as if it were not there."""
        if self.scale_N is None:
            return torch.nn.functional.linear(self._rounded(x), self.weight_NK, bias)
        if torch.is_grad_enabled() and x.requires_grad:
            weight_NK = (self.weight_NK * self.scale_N[:, None]).to(x.dtype)
            return torch.nn.functional.linear(self._rounded(x), weight_NK, bias)
        codes, scale = activations.int8_codes(x)
        y = exact_product(codes, self.weight_NK) * scale * self.scale_N
        return (y if bias is None else y + bias.float()).to(x.dtype)

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        rounded: torch.Tensor = _PassGradient.apply(x, self.kind, self.planes)  # type: ignore[no-untyped-call]
        return rounded


def prepare(packed: PackedTensor, dtype: torch.dtype, weight_NK: torch.Tensor | None = None) -> RoundedProduct:
    """Returns the product with `packed`, whose scheme must round its inputs, for inputs of `dtype`.

    `weight_NK` is its decoded weight in `dtype`, if there is one already.
    """
    kind = activations.kind_of(packed.scheme)
    assert kind is not None
    planes = {name: packed.planes[name] for name in activations.plane_specs(packed.scheme, packed.shape)}
    if kind == "int8":
        codes_NGg = int_group.expand(packed).codes
        middle = 2.0 ** (packed.scheme.bits - 1)
        scale_N = packed.planes["scale"].float().flatten()
        return RoundedProduct(kind, codes_NGg.flatten(1).float() - middle, scale_N, planes)
    return RoundedProduct(kind, layouts.unpack(packed).to(dtype) if weight_NK is None else weight_NK, None, planes)


def exact_product(codes: torch.Tensor, codes_NK: torch.Tensor) -> torch.Tensor:
    """Returns the sums of products of codes between −128 and 127 [..., K] and [N, K], rounded once, to float32."""
    width = codes.shape[-1]
    starts = range(0, width, _EXACT_WIDTH)
    with torch.autocast(codes.device.type, enabled=False):  # sums in bfloat16 would be rounded
        parts = [codes[..., i : i + _EXACT_WIDTH] @ codes_NK[:, i : i + _EXACT_WIDTH].T for i in starts]
    if len(parts) == 1:
        return parts[0]
    total = parts[0].double()
    for part in parts[1:]:
        total += part
    return total.float()


class _PassGradient(torch.autograd.Function):
    """Rounds, and hands the gradient on unchanged."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kind: str, planes: dict[str, torch.Tensor]) -> torch.Tensor:
        return activations.rounded(x, kind, planes)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        return grad, None, None
