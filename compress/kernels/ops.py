"""Defines the torch.library ops on packed planes; torch.compile, export and autograd see each as one opaque call.

One pair of ops serves every layout: `planes` come in storage order, `spec` is the JSON of scheme and shape. A kernel is
chosen inside (see `select`), so a compiled graph holds no choice of kernel.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.kernels import select
from compress.kernels.define import define


def spec_of(scheme: Scheme, shape: tuple[int, int]) -> str:
    """Returns scheme and shape as the `spec` argument of the ops."""
    return json.dumps({"scheme": scheme.to_dict(), "shape": list(shape)}, sort_keys=True, separators=(",", ":"))


@cache
def _parse(spec: str) -> tuple[Scheme, tuple[int, int], tuple[str, ...]]:
    data = json.loads(spec)
    scheme, shape = Scheme.from_dict(data["scheme"]), (data["shape"][0], data["shape"][1])
    return scheme, shape, tuple(layouts.plane_specs(scheme, shape))


def _packed(planes: Sequence[torch.Tensor], spec: str) -> PackedTensor:
    scheme, shape, names = _parse(spec)
    return PackedTensor(shape, scheme, dict(zip(names, planes, strict=True)))


def _unpack(planes: Sequence[torch.Tensor], spec: str) -> torch.Tensor:
    """Returns `layouts.unpack` of the planes: float32 [N, K]."""
    return layouts.unpack(_packed(planes, spec))


def _like_unpacked(planes: Sequence[torch.Tensor], spec: str) -> torch.Tensor:
    return planes[0].new_empty(_parse(spec)[1], dtype=torch.float32)


def _rows(ids: torch.Tensor, planes: Sequence[torch.Tensor], spec: str) -> torch.Tensor:
    """Returns the rows `ids` (integers of any shape) of the decoded weight: float32 [..., K]."""
    packed = _packed(planes, spec)
    return layouts.unpack_rows(packed, ids.reshape(-1).long()).view(*ids.shape, packed.shape[1])


def _like_rows(ids: torch.Tensor, planes: Sequence[torch.Tensor], spec: str) -> torch.Tensor:
    return planes[0].new_empty((*ids.shape, _parse(spec)[1][1]), dtype=torch.float32)


def _linear(x: torch.Tensor, planes: Sequence[torch.Tensor], bias: torch.Tensor | None, spec: str) -> torch.Tensor:
    """Returns x [..., K] times the packed weight, plus `bias` [N]: [..., N] in the dtype of `x`.

    The planes are prepared for this one call; PackedLinear keeps what the kernel prepared where memory allows.
    """
    packed = _packed(planes, spec)
    kernel = select.require(packed.scheme, packed.shape, x.device)
    result: torch.Tensor = kernel.linear(x, kernel.prepare(packed, x.dtype), bias)
    return result


def _like_linear(x: torch.Tensor, planes: Sequence[torch.Tensor], bias: torch.Tensor | None, spec: str) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], _parse(spec)[1][0]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, planes, _, ctx.spec = inputs
    ctx.save_for_backward(*planes)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, list[None], torch.Tensor | None, None]:
    """The planes are constants: gradients reach the input and the bias only."""
    planes = ctx.saved_tensors  # with gradient checkpointing they can be read only once
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = grad @ torch.ops.compress.unpack(list(planes), ctx.spec).to(grad.dtype)
    if ctx.needs_input_grad[2]:
        grad_bias = grad.reshape(math.prod(grad.shape[:-1]), -1).sum(0)
    return grad_x, [None] * len(planes), grad_bias, None


define("unpack(Tensor[] planes, str spec) -> Tensor", _unpack, _like_unpacked)
define("packed_rows(Tensor ids, Tensor[] planes, str spec) -> Tensor", _rows, _like_rows)
define(
    "packed_linear(Tensor x, Tensor[] planes, Tensor? bias, str spec) -> Tensor",
    _linear,
    _like_linear,
    setup_context=_setup_context,
    backward=_backward,
)
