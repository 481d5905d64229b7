"""GPTQ, version 1, without act-order: symmetric codes, packed along the columns.

    X.qweight  int32 [K·b/32, N]   stream of the codes down the columns of the weight
    X.qzeros   int32 [G, N·b/32]   stream of zero point − 1 along the rows, as version 1 wants it
    X.scales   float16 [G, N]
    X.g_idx    int32 [K]           group of every column, k // g

Zero points of their own are not written: version 1 wraps at zero, and readers disagree on what that means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from compress.exports import joined
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
    """See `Target.arrange`: joined linears get the largest group that divides those of all."""
    return joined.arrange(linears)


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
    """See `Target.describe`: the commonest options for all; `dynamic` for linears that differ, or that stay dense."""
    kinds: dict[tuple[int, int], list[str]] = {}
    for name, one in linears.items():
        kinds.setdefault((one.scheme.bits, -1 if one.by_row else one.group_size), []).append(name)
    commonest = max(kinds, key=lambda kind: len(kinds[kind]))
    names = [*linears, *dense]
    dynamic: dict[str, dict[str, int]] = {}
    for (bits, group), others in kinds.items():
        if (bits, group) != commonest:
            dynamic |= {f"+:{each}": {"bits": bits, "group_size": group} for each in _patterns(others, names)}
    inside = [name for name in dense if re.search(r"\.\d+\.", name)]  # the head has a setting of its own
    dynamic |= {f"-:{each}": {} for each in _patterns(inside, names)}
    return {
        "quantization_config": {
            "quant_method": "gptq", "bits": commonest[0], "group_size": commonest[1], "desc_act": False, "sym": True,
            "lm_head": False, "checkpoint_format": "gptq", **({"dynamic": dynamic} if dynamic else {}),
        }
    }  # fmt: skip


def _patterns(names: list[str], everywhere: list[str]) -> list[str]:
    return list(dict.fromkeys(f"^{joined.with_joined(each)}$" for each in joined.patterns(names, everywhere)))
