"""Decodes floats of 4 and 8 bits, and spreads scales over the groups and blocks that they are for.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

import torch

_FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
FP4 = torch.cat([_FP4, -_FP4])
"""Value of every 4-bit float E2M1 (OCP Microscaling Formats, table 5)."""


def packed_fp4(bytes_NB: torch.Tensor) -> torch.Tensor:
    """Returns the 4-bit floats in bytes, the lower half of each byte first: float32 [..., 2·B] of uint8 [..., B]."""
    codes = torch.stack([bytes_NB & 15, bytes_NB >> 4], dim=-1).flatten(-2)
    return FP4[codes.int()]


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """Returns the scales E8M0, 2^(e − 127), in float32; the code 255 is NaN."""
    if exponent.dtype != torch.uint8:
        exponent = exponent.view(torch.uint8)
    value = torch.ldexp(torch.ones(exponent.shape), exponent.int() - 127)
    return torch.where(exponent == 255, torch.nan, value)


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
