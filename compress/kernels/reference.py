"""The reference kernel: decode with `layouts.unpack`, then a dense product. Every layout, dtype and device.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

import torch

from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme


def reject(scheme: Scheme, shape: tuple[int, int], device: torch.device) -> str | None:
    """Returns why this kernel cannot run such a tensor on `device`, or None; the reference always can."""
    return None


def prepare(packed: PackedTensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Returns what `linear` works on: the weight [N, K] in the dtype of the inputs, on the device of the planes.

    It costs N·K elements of `dtype`; who keeps it pays the memory of the dense layer beside the planes.
    """
    return (layouts.unpack(packed).to(dtype),)


def linear(x: torch.Tensor, operands: tuple[torch.Tensor, ...], bias: torch.Tensor | None) -> torch.Tensor:
    """Returns x [..., K] times the prepared weight, plus `bias` [N]: [..., N] in the dtype of `x`."""
    return torch.nn.functional.linear(x, operands[0], bias)
