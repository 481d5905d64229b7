"""Takes plain integer tensors apart for targets: codes, scales and zero points, in groups of the target's size.

Shape letters: N rows, K columns, G groups of the export.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from compress.exports.linear import Linear
from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor


class Integers(NamedTuple):
    """The parts of a plain integer tensor."""

    codes_NK: torch.Tensor  # noqa: N815
    """Unsigned codes, uint8."""
    scale_NG: torch.Tensor  # noqa: N815
    """Scales in their stored dtype."""
    zero_NG: torch.Tensor  # noqa: N815
    """Unsigned zero points, uint8; the middle code where the scheme is symmetric."""


def take_apart(linear: Linear, packed: PackedTensor) -> Integers:
    """Returns the parts in groups of `linear.group_size` columns: a larger group is split by repeating its scale."""
    (rows, columns), bits = packed.shape, packed.scheme.bits
    codes_NK = bitstream.unpack_rows(packed.planes["weight"], bits, columns)
    scale_NG = packed.planes["scale"]
    if "zero_point" in packed.planes:
        zero_NG = bitstream.unpack_rows(packed.planes["zero_point"].T, bits, rows).T
    else:
        zero_NG = torch.full_like(scale_NG, 1 << (bits - 1), dtype=torch.uint8)
    times = packed.scheme.group_size // linear.group_size
    return Integers(codes_NK, scale_NG.repeat_interleave(times, 1), zero_NG.repeat_interleave(times, 1).contiguous())


def put_together(codes_NK: torch.Tensor, scale_NG: torch.Tensor, zero_NG: torch.Tensor) -> torch.Tensor:
    """Returns (code − zero point) · scale, float32 [N, K]."""
    rows, groups = scale_NG.shape
    codes_NGg = codes_NK.float().view(rows, groups, -1)
    return ((codes_NGg - zero_NG.float()[..., None]) * scale_NG.float()[..., None]).view(rows, -1)
