"""The formats of compressed-tensors with inputs that are rounded, or weights in floats: bytes, decoding, description.

    int-quantized          X.weight int8 [N, K], X.weight_scale [N, 1]
    float-quantized        X.weight float8_e4m3fn [N, K], X.weight_scale [N, 1] or [1]; X.input_scale [1] if static
    nvfp4-pack-quantized   X.weight_packed uint8 [N, K/2], X.weight_scale float8_e4m3fn [N, K/16],
                           X.weight_global_scale [1]; X.input_global_scale [1] if inputs are rounded
    mxfp4-pack-quantized   X.weight_packed uint8 [N, K/2], X.weight_scale uint8 [N, K/32]

Nothing is computed: streams of 4 and 8 bits are these bytes, but for the sign of integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from compress.exports.linear import Linear
from compress.format import minifloats
from compress.format.layouts import float_group
from compress.format.packed import PackedTensor

INTEGERS, FLOATS, NVFP4, MXFP4 = "int-quantized", "float-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized"
_FORMATS = {"e4m3": NVFP4, "e8m0": MXFP4}
_SCALE_DTYPES = {NVFP4: "torch.float8_e4m3fn", MXFP4: "torch.uint8"}
_INPUTS: dict[str, dict[str, Any]] = {
    "int8": {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True},
    "fp8": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
    "fp8_static": {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False},
    "nvfp4": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "dynamic": "local", "group_size": 16},
    "mxfp4": {"num_bits": 4, "type": "float", "strategy": "group", "dynamic": True, "group_size": 32},
}


def format_of(linear: Linear) -> str | None:
    """Returns the format that holds the linear; None for plain integers whose inputs stay as they are."""
    if linear.scheme.layout == float_group.LAYOUT:
        return _FORMATS.get(linear.scheme.options["scale_dtype"], FLOATS)
    return INTEGERS if "activations" in linear.scheme.options else None


def tensors(linear: Linear, packed: PackedTensor) -> dict[str, torch.Tensor]:
    """Returns what is stored for the linear: suffix behind its name -> tensor."""
    (_, columns), planes, to = linear.shape, packed.planes, format_of(linear)
    bytes_NB = planes["weight"].view(torch.uint8)
    inputs: dict[str, torch.Tensor] = {
        name: planes[name] for name in ("input_scale", "input_global_scale") if name in planes
    }
    if to == INTEGERS:
        weight = (bytes_NB[:, :columns] ^ 0x80).view(torch.int8)  # code q stands for q − 128
        return {"weight": weight, "weight_scale": planes["scale"]}
    if to == FLOATS:
        weight = bytes_NB[:, :columns].contiguous().view(torch.float8_e4m3fn)
        scale = planes["scale"].reshape(1) if linear.scheme.options["per_tensor"] else planes["scale"]
        return {"weight": weight, "weight_scale": scale, **inputs}
    stored = {"weight_packed": bytes_NB[:, : columns // 2].contiguous(), "weight_scale": planes["scale"]}
    if to == MXFP4:
        return stored
    stored["weight_scale"] = planes["scale"].view(torch.float8_e4m3fn)
    return {**stored, "weight_global_scale": planes["global_scale"], **inputs}


def decode(linear: Linear, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the weight that engines see in the tensors of `tensors`, float32 [N, K]."""
    to, scale = format_of(linear), stored["weight_scale"]
    if to in (INTEGERS, FLOATS):
        return stored["weight"].float() * scale.float()
    low_NB, high_NB = stored["weight_packed"] & 15, stored["weight_packed"] >> 4
    values_NK = minifloats.e2m1_values(torch.stack([low_NB, high_NB], -1).flatten(1))
    scale_NG = minifloats.e8m0_values(scale) if to == MXFP4 else scale.float() / stored["weight_global_scale"]
    return (values_NK.view(*scale_NG.shape, -1) * scale_NG[..., None]).flatten(1)


def describe(linear: Linear) -> dict[str, Any]:
    """Returns the weights, inputs and format of a group of `config_groups` that holds the linear."""
    to, options = format_of(linear), linear.scheme.options
    strategy = {INTEGERS: "channel", NVFP4: "tensor_group", MXFP4: "group"}.get(str(to))
    weights = {
        "num_bits": linear.scheme.bits, "type": "int" if to == INTEGERS else "float",
        "strategy": strategy or ("tensor" if options["per_tensor"] else "channel"), "dynamic": False,
        "group_size": linear.group_size if to in (NVFP4, MXFP4) else None,
    }  # fmt: skip
    kind = options.get("activations")
    return {
        "weights": _whole(weights, to),
        "input_activations": None if kind is None else _whole(_INPUTS[kind], to),
        "output_activations": None,
        "format": to,
    }


def _whole(arguments: Mapping[str, Any], to: str | None) -> dict[str, Any]:
    whole = {"symmetric": True, "group_size": None, **arguments}
    if (dtype := _SCALE_DTYPES.get(str(to))) is not None:
        whole |= {"scale_dtype": dtype, "zp_dtype": dtype}
    return whole
