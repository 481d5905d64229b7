"""Decodes floats of 4 and 8 bits, and spreads scales over the groups and blocks that they are for.

Shape letters: N out features, K in features, G groups, B bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.format import minifloats
from compress.format.layouts import float_group
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme


def nibbles(bytes_NB: torch.Tensor) -> torch.Tensor:
    """Returns the two codes in every byte, the lower half first: uint8 [..., 2·B] of uint8 [..., B]."""
    return torch.stack([bytes_NB & 15, bytes_NB >> 4], dim=-1).flatten(-2)


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """Returns the scales E8M0, 2^(e − 127), in float32; the code 255 is NaN."""
    codes = exponent.view(torch.uint8)
    return torch.where(codes == 255, torch.nan, minifloats.e8m0_values(codes))


@dataclass(frozen=True)
class Floats:
    """w[n, k] = value(code[n, k]) · scale[n, g(k)]; scales are divided by a global one where there is one."""

    element: str
    """`e2m1` or `e4m3`."""
    shape: tuple[int, int]
    codes: Callable[[], torch.Tensor]
    """Reads the codes, uint8 [N, K]."""
    scale_NG: torch.Tensor  # noqa: N815
    """As stored: [1, 1] for one scale for all; float8 or, as codes of E8M0, uint8 too."""
    global_scale: torch.Tensor | None = None

    def decode(self) -> torch.Tensor:
        """See `Content`."""
        scale_NG = power_of_two(self.scale_NG) if self._scale_dtype == "e8m0" else self.scale_NG.float()
        if self.global_scale is not None:
            scale_NG = scale_NG / self.global_scale.float()
        read = minifloats.e2m1_values if self.element == "e2m1" else minifloats.e4m3_values
        return read(self.codes()).mul_(spread(scale_NG, self.shape))

    @property
    def _scale_dtype(self) -> str:
        named = {torch.float8_e4m3fn: "e4m3", torch.uint8: "e8m0", torch.float8_e8m0fnu: "e8m0"}
        return named.get(self.scale_NG.dtype) or str(self.scale_NG.dtype).removeprefix("torch.")

    def scheme(self) -> Scheme | None:
        """See `Content`."""
        (rows, columns), (scales, groups) = self.shape, self.scale_NG.shape
        per_tensor = (scales, groups) == (1, 1) and rows > 1
        finite = power_of_two(self.scale_NG) if self._scale_dtype == "e8m0" else self.scale_NG.float()
        known = self._scale_dtype in ("e4m3", "e8m0", "float16", "bfloat16", "float32")
        if not known or columns % groups or not (per_tensor or scales == rows) or not bool(finite.isfinite().all()):
            return None
        options = {
            "element": self.element, "scale_dtype": self._scale_dtype, "per_tensor": per_tensor,
            "global_scale": self.global_scale is not None,
        }  # fmt: skip
        bits = float_group.ELEMENTS[self.element]
        return Scheme(layout=float_group.LAYOUT, bits=bits, group_size=columns // groups, options=options)

    def packed(self) -> PackedTensor | None:
        """See `Content`."""
        if self.scheme() is None:
            return None
        coded = self._scale_dtype in ("e4m3", "e8m0")
        scale_NG = self.scale_NG.view(torch.uint8) if coded else self.scale_NG
        kind = self._scale_dtype if coded else None
        return float_group.pack(self.codes(), scale_NG, self.element, scale_dtype=kind, global_scale=self.global_scale)


def spread(scale: torch.Tensor, shape: tuple[int, ...], block: tuple[int, int] | None = None) -> torch.Tensor:
    """Returns the scale of every weight, broadcast to the last two dimensions of `shape`.

    Args:
        scale: one number, one for each row, or one for each block of rows and columns.
        shape: that of the weight.
        block: rows and columns of a block; None: the least that covers the weight, which must divide it.

    Raises:
        ValueError: the scales do not cover the weight.
    """
    if scale.numel() == 1:
        return scale.reshape(())
    spread_out = scale[:, None] if scale.dim() == 1 else scale
    for place, length in ((-2, shape[-2]), (-1, shape[-1])):
        parts = spread_out.shape[place]
        size = -(-length // parts) if block is None else block[place]
        covers = size * parts == length if block is None else parts == -(-length // size)
        if not covers:
            raise ValueError(f"its scales {list(scale.shape)} do not cover a weight {list(shape)}")
        if parts > 1 and size > 1:
            spread_out = spread_out.repeat_interleave(size, place).narrow(place, 0, length)
    return spread_out
