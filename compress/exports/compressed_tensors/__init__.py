"""compressed-tensors: `pack-quantized`, the planes of `int_group.v1` under other names, and formats for rounded inputs.

    X.weight_packed      int32 [N, ceil(K·b/32)]   our `weight`
    X.weight_scale       [N, G]                    our `scale`
    X.weight_zero_point  int32 [ceil(N·b/32), G]   our `zero_point`; only if not symmetric
    X.weight_shape       int64 [2]                 N, K

Weights in floats, and integers whose inputs are rounded too, are in `rounded_inputs`.
Streams are dense, as compressed-tensors ≥ 0.18 and vLLM read them; 0.17 pads widths that do not divide 32.
Where a zero point is stored, transformers decodes the weights while it loads them (`dequantize`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from compress.exports import joined
from compress.exports.compressed_tensors import rounded_inputs
from compress.exports.integers import put_together
from compress.exports.linear import Linear, not_inside_a_block, not_plain_integers
from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor


def reason(linear: Linear) -> str | None:
    """See `Target.reason`."""
    if rounded_inputs.format_of(linear):
        return not_inside_a_block(linear)
    if linear.scheme.bits < 2:
        return "codes have 2 to 8 bits there"
    return not_inside_a_block(linear) or not_plain_integers(linear)


def arrange(linears: Mapping[str, Linear]) -> dict[str, Linear]:
    """See `Target.arrange`: joined linears get the largest group that divides those of all."""
    return joined.arrange(linears)


def tensors(linear: Linear, packed: PackedTensor) -> dict[str, torch.Tensor]:
    """See `Target.tensors`."""
    if rounded_inputs.format_of(linear):
        return rounded_inputs.tensors(linear, packed)
    times = packed.scheme.group_size // linear.group_size
    by_group = {f"weight_{name}": packed.planes[name] for name in ("scale", "zero_point") if name in packed.planes}
    return {
        "weight_packed": packed.planes["weight"],
        **{name: plane.repeat_interleave(times, 1) for name, plane in by_group.items()},
        "weight_shape": torch.tensor(packed.shape),
    }


def decode(linear: Linear, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """See `Target.decode`."""
    if rounded_inputs.format_of(linear):
        return rounded_inputs.decode(linear, stored)
    (rows, columns), bits = stored["weight_shape"].tolist(), linear.scheme.bits
    codes_NK = bitstream.unpack_rows(stored["weight_packed"], bits, columns)
    scale_NG = stored["weight_scale"]
    if "weight_zero_point" in stored:
        zero_NG = bitstream.unpack_rows(stored["weight_zero_point"].T, bits, rows).T
    else:
        zero_NG = torch.full(scale_NG.shape, 1 << (bits - 1))
    return put_together(codes_NK, scale_NG, zero_NG)


def describe(linears: Mapping[str, Linear], dense: list[str]) -> dict[str, Any]:
    """See `Target.describe`: one group of linears for each choice of format, bits, group size and symmetry."""
    kinds: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for name, one in linears.items():
        group = rounded_inputs.describe(one) if rounded_inputs.format_of(one) else _packed(one)
        kinds.setdefault(json.dumps(group), (group, []))[1].append(name)
    everywhere = [*linears, *dense]
    groups = {
        f"group_{number}": {"targets": [f"re:^{each}$" for each in joined.patterns(names, everywhere)], **group}
        for number, (group, names) in enumerate(kinds.values())
    }
    if len(kinds) == 1:
        groups["group_0"]["targets"] = ["Linear"]
    formats = {group["format"] for group, _ in kinds.values()}
    quantization: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "config_groups": groups,
        "ignore": dense,
        "kv_cache_scheme": None,
    }
    if any(not rounded_inputs.format_of(one) and not one.symmetric for one in linears.values()):
        quantization["dequantize"] = True  # transformers cannot keep zero points packed while it loads
    return {"quantization_config": quantization}


def _packed(linear: Linear) -> dict[str, Any]:
    """Returns the group of `config_groups` for plain integers."""
    group = None if linear.by_row else linear.group_size
    weights = {
        "num_bits": linear.scheme.bits, "type": "int", "symmetric": linear.symmetric,
        "strategy": "group" if group else "channel", "group_size": group, "dynamic": False,
    }  # fmt: skip
    return {"weights": weights, "input_activations": None, "output_activations": None, "format": "pack-quantized"}
