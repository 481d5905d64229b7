"""Takes plain integer tensors apart for targets: codes, scales and zero points, in groups of the target's size.

Shape letters: N rows, K columns, G groups of the export.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from compress.exports.linear import Linear
from compress.format.layouts import float_group, int_group, super_block
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
    expanded, scale_NG = int_group.expand(packed), packed.planes["scale"]
    if isinstance(expanded.zero, torch.Tensor):
        zero_NG = expanded.zero[..., 0]
    else:
        zero_NG = torch.full_like(scale_NG, expanded.zero, dtype=torch.uint8)
    times = packed.scheme.group_size // linear.group_size
    scale_NG, zero_NG = (plane_NG.repeat_interleave(times, 1) for plane_NG in (scale_NG, zero_NG))
    return Integers(expanded.codes.flatten(1), scale_NG, zero_NG)


def rows_of(linear: Linear, packed: PackedTensor) -> PackedTensor:
    """Returns the rows of a packed tensor that are the linear; the tensor itself where they are all."""
    if linear.shape == packed.shape:
        return packed
    rows = slice(linear.start, linear.start + linear.shape[0])
    if packed.scheme.layout == float_group.LAYOUT:
        return float_group.rows_of(packed, rows)
    if packed.scheme.layout == super_block.LAYOUT:
        return super_block.rows_of(packed, rows)
    parts = take_apart(replace(linear, group_size=packed.scheme.group_size), packed)
    zero_NG = None if linear.symmetric else parts.zero_NG[rows]
    return int_group.pack(parts.codes_NK[rows], parts.scale_NG[rows], zero_NG, bits=linear.scheme.bits)


def put_together(codes_NK: torch.Tensor, scale_NG: torch.Tensor, zero_NG: torch.Tensor) -> torch.Tensor:
    """Returns (code − zero point) · scale, float32 [N, K]."""
    rows, groups = scale_NG.shape
    codes_NGg = codes_NK.float().view(rows, groups, -1)
    return ((codes_NGg - zero_NG.float()[..., None]) * scale_NG.float()[..., None]).view(rows, -1)
