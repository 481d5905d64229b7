"""Rounds to the small floating-point numbers of hardware: E2M1 (4 bits), E4M3 (8 bits) and E8M0 (powers of two).

E2M1 has the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6; its code is the sign bit (8) plus the place of the magnitude in this
list. E4M3 is torch.float8_e4m3fn: up to 448, without infinities. E8M0 code c stands for 2^(c − 127). Ties go to the
even code, values beyond the range to the greatest magnitude. Source: OCP Microscaling Formats specification 1.0.
"""

from __future__ import annotations

import torch

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of the codes 0 to 7; the codes 8 to 15 are their negatives."""
E2M1_MAX, E4M3_MAX = 6.0, 448.0
E4M3_LEAST = 0.125
"""Scale that stands for zero in groups of NVFP4: any would do, since all their codes are zero."""
_E2M1_EXPONENT = 2
_QUARTER = 1 << 21
"""A quarter in the mantissa of a float32: a peak of 1.75 · 2^e or more takes the scale of the next power of two."""


def round_e2m1(x: torch.Tensor) -> torch.Tensor:
    """Returns the nearest E2M1 number of every element of `x`, float32."""
    size = x.abs().clamp_max(E2M1_MAX)
    # steps of 0.5 below 2, of 1 below 4, of 2 from there on: scaled to 1, torch rounds ties to even
    nearest = torch.where(size < 2, (size * 2).round() / 2, torch.where(size < 4, size.round(), (size / 2).round() * 2))
    return nearest.copysign(x)


def e2m1_codes(x: torch.Tensor) -> torch.Tensor:
    """Returns the codes (uint8) of the nearest E2M1 numbers."""
    size = x.abs().clamp_max(E2M1_MAX)
    place = torch.where(size < 2, (size * 2).round(), torch.where(size < 4, size.round() + 2, (size / 2).round() + 4))
    return place.to(torch.uint8) | (x < 0).to(torch.uint8) << 3


def e2m1_values(codes: torch.Tensor) -> torch.Tensor:
    """Returns the numbers, float32, of E2M1 codes of any integer dtype."""
    table = torch.tensor([*E2M1, *(-size for size in E2M1)], device=codes.device)
    return table[codes.long()]


def round_e4m3(x: torch.Tensor) -> torch.Tensor:
    """Returns the nearest E4M3 number of every element of `x`, float32."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).float()


def e4m3_codes(x: torch.Tensor) -> torch.Tensor:
    """Returns the codes (uint8) of the nearest E4M3 numbers."""
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).view(torch.uint8)


def e4m3_values(codes: torch.Tensor) -> torch.Tensor:
    """Returns the numbers, float32, of E4M3 codes (uint8)."""
    return codes.contiguous().view(torch.float8_e4m3fn).float()


def e8m0_codes(scale: torch.Tensor) -> torch.Tensor:
    """Returns the codes (uint8) of scales that are powers of two from 2^−127 to 2^127."""
    return (scale.float().contiguous().view(torch.int32) >> 23).to(torch.uint8)


def e8m0_values(codes: torch.Tensor) -> torch.Tensor:
    """Returns the powers of two, float32, of E8M0 codes (uint8)."""
    scale = (codes.int() << 23).view(torch.float32)
    return torch.where(codes == 0, 2.0**-127, scale)  # below the normal numbers of float32


def nvfp4_scale(peak: torch.Tensor, global_scale: torch.Tensor) -> torch.Tensor:
    """Returns the E4M3 scales of groups with these greatest magnitudes, as float32; a group is worth scale / global."""
    scale = round_e4m3(global_scale * (peak / E2M1_MAX))
    return torch.where(scale == 0, E4M3_LEAST, scale)


def nvfp4_global_scale(peak: torch.Tensor) -> torch.Tensor:
    """Returns the global scale float32 [1] for a tensor of this greatest magnitude, whose group has the scale 448."""
    scale = E4M3_MAX * E2M1_MAX / peak.float().clamp_min(torch.finfo(torch.float32).tiny)
    return torch.nan_to_num(scale, nan=1.0, posinf=1.0).reshape(1)


def mxfp4_scale(peak: torch.Tensor) -> torch.Tensor:
    """Returns the E8M0 scales, float32, of groups with these greatest magnitudes.

    The power of two of the peak over 4, the power of two of the greatest E2M1 number; the next one from 1.75 on, where
    the peak would otherwise be cut off (as in the reference of vLLM).
    """
    bits = peak.float().contiguous().view(torch.int32)
    exponent = ((bits + _QUARTER) >> 23) - _E2M1_EXPONENT
    return e8m0_values(exponent.clamp(0, 254))
