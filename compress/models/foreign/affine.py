"""Integer codes with a scale and a bias for every group of columns: MLX, and Q4_1 and Q5_1 of GGUF.

A bias of −z · scale with an integer z is a zero point.

Shape letters: N out features, K in features, G groups of g.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from compress.models.foreign.integers import Integers

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.format.scheme import Scheme


@dataclass(frozen=True)
class Affine:
    """w[n, k] = code[n, k] · scale[n, g(k)] + bias[n, g(k)], in groups of equal size: see `Content`."""

    bits: int
    shape: tuple[int, int]
    codes: Callable[[], torch.Tensor]
    """Reads the unsigned codes, integers [N, K]."""
    scale_NG: torch.Tensor  # noqa: N815
    bias_NG: torch.Tensor  # noqa: N815

    def decode(self) -> torch.Tensor:
        """See `Content`."""
        groups = self.scale_NG.shape[1]
        weight_NGg = self.codes().float().view(self.shape[0], groups, -1)
        weight_NGg = weight_NGg * self.scale_NG.float()[..., None] + self.bias_NG.float()[..., None]
        return weight_NGg.view(self.shape)

    @cached_property
    def _integers(self) -> Integers | None:
        """The same values with zero points, where every bias is that of one."""
        scale_NG, bias_NG = self.scale_NG.float(), self.bias_NG.float()
        zero_NG = torch.where(scale_NG == 0, 0, (-bias_NG / scale_NG).round()).nan_to_num(-1)
        inside = bool(((zero_NG >= 0) & (zero_NG < 1 << self.bits)).all())
        # all products are exact in float32 then, and (q − z) · scale is what q · scale + bias is
        exact = torch.equal(zero_NG.double() * scale_NG.double(), -bias_NG.double())
        if not (inside and exact and _of_16_bits(scale_NG)):
            return None
        scale = self.scale_NG
        if scale.dtype == torch.float32 and torch.equal(scale, scale.half().float()):
            scale = scale.half()  # exports store half scales in float32 so that products with zero points are exact
        return Integers(self.bits, self.shape, self.codes, scale, zero_NG.to(torch.uint8))

    def scheme(self) -> Scheme | None:
        """See `Content`."""
        return None if self._integers is None else self._integers.scheme()

    def packed(self) -> PackedTensor | None:
        """See `Content`."""
        return None if self._integers is None else self._integers.packed()


def _of_16_bits(scale_NG: torch.Tensor) -> bool:
    """Returns whether scales are exact in 16 bits: no product of one with a code of 8 bits is rounded in float32."""
    return any(torch.equal(scale_NG, scale_NG.to(dtype).float()) for dtype in (torch.float16, torch.bfloat16))
