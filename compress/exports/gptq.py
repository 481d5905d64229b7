"""GPTQ, version 1, without act-order: symmetric codes, packed along the columns.

    X.qweight  int32 [K·b/32, N]   stream of the codes down the columns of the weight
    X.qzeros   int32 [G, N·b/32]   stream of zero point − 1 along the rows, as version 1 wants it
    X.scales   float16 [G, N]
    X.g_idx    int32 [K]           group of every column, k // g

Zero points of their own are not written: version 1 wraps at zero, and readers disagree on what that means.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from compress.errors import OutputError
from compress.exports.integers import put_together, take_apart
from compress.exports.linear import Linear, not_inside_a_block, not_plain_integers
from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor

_BITS = (2, 3, 4, 8)


def reason(linear: Linear) -> str | None:
    """See `Target.reason`."""
    if (why := not_inside_a_block(linear) or not_plain_integers(linear)) is not None:
        return why
    bits, (rows, columns) = linear.scheme.bits, linear.shape
    if bits not in _BITS or not linear.symmetric:
        return f"codes are symmetric and have {', '.join(map(str, _BITS))} bits there"
    if linear.scheme.options["scale_dtype"] != "float16":
        return "scales are float16 there"
    if rows % 32 or columns % 32:
        return "rows and columns are multiples of 32 there"
    return None


def arrange(linears: Mapping[str, Linear]) -> dict[str, Linear]:
    """See `Target.arrange`: all linears have the same bits and groups."""
    kinds = {(one.scheme.bits, -1 if one.by_row else one.group_size) for one in linears.values()}
    if len(kinds) > 1:
        listed = ", ".join(f"{bits} bits in groups of {group}" for bits, group in sorted(kinds))
        raise OutputError(
            f"the linears have different options: {listed}",
            allowed="one width and one group size for all linears",
            do="Export to compressed-tensors, or compress with one width and one group size",
        )
    return dict(linears)


def tensors(linear: Linear, packed: PackedTensor) -> dict[str, torch.Tensor]:
    """See `Target.tensors`."""
    parts, bits = take_apart(linear, packed), linear.scheme.bits
    zero_GN = parts.zero_NG.T.to(torch.int32) - 1
    return {
        "qweight": packed.planes["weight"].T.contiguous(),
        "qzeros": bitstream.pack_rows(zero_GN.contiguous(), bits),
        "scales": parts.scale_NG.T.contiguous(),
        "g_idx": torch.arange(linear.shape[1], dtype=torch.int32) // linear.group_size,
    }


def decode(linear: Linear, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """See `Target.decode`."""
    (rows, columns), bits = linear.shape, linear.scheme.bits
    codes_NK = bitstream.unpack_rows(stored["qweight"].T.contiguous(), bits, columns)
    zero_GN = (bitstream.unpack_rows(stored["qzeros"], bits, rows).int() + 1) % (1 << bits)
    return put_together(codes_NK, stored["scales"].T, zero_GN.T)


def describe(linears: Mapping[str, Linear], dense: list[str]) -> dict[str, Any]:
    """See `Target.describe`."""
    one = next(iter(linears.values()))
    return {
        "quantization_config": {
            "quant_method": "gptq", "bits": one.scheme.bits, "group_size": -1 if one.by_row else one.group_size,
            "desc_act": False, "sym": True, "lm_head": False, "checkpoint_format": "gptq",
        }
    }  # fmt: skip
