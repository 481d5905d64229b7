"""MLX, mode `affine`: w = scale · q + bias, with the same bit stream as `int_group.v1`.

    X.weight  uint32 [N, K·b/32]   our `weight`
    X.scales  [N, G]               our `scale`; float32 where there are zero points
    X.biases  [N, G]               −zero point · scale, exact: a power of two times the scale, or float32

Embedding and head are stored in the same way. The experts of a projection are stacked, [E, N, …], in one module
`switch_mlp.gate_proj`, `up_proj` or `down_proj`, as mlx-lm saves them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from compress.errors import OutputError
from compress.exports.integers import take_apart
from compress.exports.linear import CONV1D, EXPERT, JOINED, Linear, not_inside_a_block, not_plain_integers
from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor

_BITS = (2, 3, 4, 5, 6, 8)
_GROUPS = (128, 64, 32)
_EXPERT = re.compile(r"(?P<block>.+)\.experts\.(?P<number>\d+)\.(?P<own>\w+)")
_MIXTRAL = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}


def reason(linear: Linear) -> str | None:
    """See `Target.reason`."""
    if (why := not_plain_integers(linear)) is not None:
        return why
    if linear.kind in (CONV1D, JOINED):
        return not_inside_a_block(linear)
    if linear.scheme.bits not in _BITS:
        return f"codes have {', '.join(map(str, _BITS))} bits there"
    if linear.scheme.options["scale_dtype"] == "float32":
        return "its scales are float32, and products with codes would be rounded"
    if _group(linear) is None:
        return f"its groups of {linear.group_size} cannot be split into groups of 32, 64 or 128"
    return None


def arrange(linears: Mapping[str, Linear]) -> dict[str, Linear]:
    """See `Target.arrange`: the largest group that MLX knows and that divides the linear's own; experts are stacked.

    Raises:
        OutputError: experts that are stacked have different options.
    """
    groups = {name: _group(one) for name, one in linears.items()}
    arranged = {
        name: replace(linears[name], group_size=group, stack=_stack(linears[name]))
        for name, group in groups.items()
        if group is not None
    }
    first: dict[str, Linear] = {}
    for one in arranged.values():
        if one.stack and _options(one) != _options(first.setdefault(one.stack[0], one)):
            raise OutputError(
                "the experts of a projection lie in one tensor there, and they differ",
                allowed="the same bits, groups and scales for all experts of a projection",
                do="Compress with equal options for them",
                layer=one.name,
            )
    return arranged


def _options(linear: Linear) -> tuple[Any, ...]:
    return linear.scheme.bits, linear.group_size, linear.symmetric, linear.scheme.options["scale_dtype"]


def _stack(linear: Linear) -> tuple[str, int] | None:
    """Returns the module of mlx-lm that an expert is part of, and its number."""
    if linear.kind != EXPERT or (parts := _EXPERT.fullmatch(linear.name)) is None:
        return None
    own = _MIXTRAL.get(parts["own"], parts["own"])
    return f"{parts['block']}.switch_mlp.{own}", int(parts["number"])


def _group(linear: Linear) -> int | None:
    return next((group for group in _GROUPS if linear.group_size % group == 0), None)


def tensors(linear: Linear, packed: PackedTensor) -> dict[str, torch.Tensor]:
    """See `Target.tensors`."""
    parts = take_apart(linear, packed)
    scale_NG = parts.scale_NG if linear.symmetric else parts.scale_NG.float()
    bias_NG = -parts.zero_NG.to(scale_NG.dtype) * scale_NG
    return {"weight": packed.planes["weight"].view(torch.uint32), "scales": scale_NG, "biases": bias_NG}


def decode(linear: Linear, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """See `Target.decode`."""
    codes_NK = bitstream.unpack_rows(stored["weight"].view(torch.int32), linear.scheme.bits, linear.shape[1])
    scale_NG1, bias_NG1 = stored["scales"].float()[..., None], stored["biases"].float()[..., None]
    weight_NGg = codes_NK.float().view(*scale_NG1.shape[:2], -1) * scale_NG1 + bias_NG1
    return weight_NGg.view(linear.shape)


def describe(linears: Mapping[str, Linear], dense: list[str]) -> dict[str, Any]:
    """See `Target.describe`: the commonest options for all, and those of every linear that differs."""
    options = {
        one.stack[0] if one.stack else one.name: {"group_size": one.group_size, "bits": one.scheme.bits}
        for one in linears.values()
    }
    commonest = max(options.values(), key=lambda each: list(options.values()).count(each))
    others = {name: each for name, each in options.items() if each != commonest}
    quantization = {**commonest, "mode": "affine", **others, **dict.fromkeys(dense, False)}
    return {"quantization": quantization, "quantization_config": quantization}
