"""AWQ, version `gemm`: 4-bit codes with zero points, eight columns of the transposed weight in a word.

    X.qweight  int32 [K, N/8]   nibble i of a word is the code of output 8c + (0, 2, 4, 6, 1, 3, 5, 7)[i]
    X.qzeros   int32 [G, N/8]   zero points in the same order
    X.scales   float16 [G, N]

Symmetric codes have the zero point 8 everywhere. A row with one scale is written in groups of 128, 64 or 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from compress.exports.integers import put_together, take_apart
from compress.exports.linear import Linear, not_inside_a_block, not_plain_integers
from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor

_ORDER = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
_BACK = torch.argsort(_ORDER)


def reason(linear: Linear) -> str | None:
    """See `Target.reason`."""
    if (why := not_inside_a_block(linear) or not_plain_integers(linear)) is not None:
        return why
    if linear.scheme.bits != 4:
        return "codes have 4 bits there"
    if linear.scheme.options["scale_dtype"] != "float16":
        return "scales are float16 there"
    if linear.shape[0] % 8 or linear.shape[1] % 32:
        return "rows are multiples of 8 and columns of 32 there"
    return None if linear.group_size % 32 == 0 else "groups are multiples of 32 there"


def arrange(linears: Mapping[str, Linear]) -> dict[str, Linear]:
    """See `Target.arrange`: one group size for all linears, the largest of 128, 64 and 32 that divides those of all."""
    group = next(size for size in (128, 64, 32) if all(one.group_size % size == 0 for one in linears.values()))
    return {name: replace(one, group_size=group) for name, one in linears.items()}


def tensors(linear: Linear, packed: PackedTensor) -> dict[str, torch.Tensor]:
    """See `Target.tensors`."""
    parts = take_apart(linear, packed)
    return {
        "qweight": _pack(parts.codes_NK.T),
        "qzeros": _pack(parts.zero_NG.T),
        "scales": parts.scale_NG.T.contiguous(),
    }


def _pack(codes_RN: torch.Tensor) -> torch.Tensor:
    rows, width = codes_RN.shape
    return bitstream.pack_rows(codes_RN.reshape(rows, -1, 8)[..., _ORDER].reshape(rows, width), 4)


def _unpack(words_RW: torch.Tensor, width: int) -> torch.Tensor:
    codes_RN = bitstream.unpack_rows(words_RW, 4, width)
    return codes_RN.view(len(codes_RN), -1, 8)[..., _BACK].reshape(len(codes_RN), width)


def decode(linear: Linear, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """See `Target.decode`."""
    rows = linear.shape[0]
    return put_together(
        _unpack(stored["qweight"], rows).T.contiguous(), stored["scales"].T, _unpack(stored["qzeros"], rows).T
    )


def describe(linears: Mapping[str, Linear], dense: list[str]) -> dict[str, Any]:
    """See `Target.describe`."""
    return {
        "quantization_config": {
            "quant_method": "awq", "bits": 4, "group_size": next(iter(linears.values())).group_size,
            "zero_point": True, "version": "gemm", "modules_to_not_convert": dense or None,
        }
    }  # fmt: skip
