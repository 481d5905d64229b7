"""Rounds decoded weights again, to plain integers that a target can hold: a second loss, which is measured.

Shape letters: N rows, K columns, G groups of g columns.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from compress.errors import OutputError
from compress.exports.linear import Linear
from compress.format.layouts import int_group
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.numerics import grid, ranges


def check(bits: int) -> None:
    """Raises OutputError for a width that integers do not have."""
    if not 2 <= bits <= 8:
        raise OutputError(f"requantise={bits}", allowed="2 to 8 bits")


def described(linear: Linear, bits: int) -> Linear:
    """Returns the linear as it is after rounding: symmetric codes, groups of 128 or the next size that fits."""
    group = grid.group_width(linear.shape[1], None)
    options = {"symmetric": True, "scale_dtype": "float16", "outliers": 0}
    scheme = Scheme(layout=int_group.LAYOUT, bits=bits, group_size=group, options=options)
    return replace(linear, scheme=scheme, group_size=group)


def rounded(weight_NK: torch.Tensor, linear: Linear) -> tuple[PackedTensor, float]:
    """Returns the weight at the scheme of `described`, its scales searched, and ‖W − Ŵ‖² / ‖W‖² (0 for zeros)."""
    bits, group = linear.scheme.bits, linear.scheme.group_size
    weight_NGg = weight_NK.view(weight_NK.shape[0], -1, group)
    fitted = ranges.searched(weight_NGg, bits, symmetric=True, dtype=torch.float16)
    packed = int_group.pack(ranges.codes(weight_NGg, fitted, bits), fitted.scale_NG, None, bits=bits)
    lost, whole = (float(one.double().square().sum()) for one in (weight_NK - int_group.unpack(packed), weight_NK))
    return packed, lost / whole if whole else 0.0
