"""Runs the Triton kernels on CUDA devices; for tests, Triton's interpreter (TRITON_INTERPRET=1) runs them on the CPU.

`select` calls this module. Triton is imported only if a tensor could run. The product is a torch.library op, so
torch.compile sees one opaque call. CUDA graphs can record it, because nothing in it waits for the device.

Shape letters: M tokens, N out features, K in features.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from compress.errors import CompressError
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.kernels.define import define
from compress.kernels.triton import plan

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""Dtypes of inputs that the kernels take."""
INTERPRETER = "TRITON_INTERPRET"
"""Environment variable that sends the kernels to Triton's interpreter; read by Triton when it is imported."""
_OLDEST = (8, 0)
_LARGEST = 2**31


def reject(scheme: Scheme, shape: tuple[int, int], device: torch.device) -> str | None:
    """Returns why these kernels cannot run such a tensor on `device`, or None."""
    interpreted = os.environ.get(INTERPRETER, "").lower() in ("1", "true", "on", "yes", "y")
    if scheme.layout not in plan.LAYOUTS:
        return f"no Triton kernel for {scheme.layout}"
    if "activations" in scheme.options:
        return "no Triton kernel rounds its inputs"
    if device.type != ("cpu" if interpreted else "cuda"):
        return (
            f"Triton's interpreter is asked for ({INTERPRETER}=1) and runs on the cpu, not on {device.type}"
            if interpreted
            else f"runs on CUDA devices, not on {device.type} (Triton's interpreter does, with {INTERPRETER}=1)"
        )
    if not _installed():
        return "triton is not installed: pip install 'compress-llm[gpu]'"
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        if torch.version.cuda and torch.cuda.get_device_capability(device) < _OLDEST:
            capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
            return f"the device has compute capability {capability}, 8.0 or more is needed"
    if math.prod(shape) >= _LARGEST:
        return f"a weight of {shape[0]} x {shape[1]} has 2^31 elements or more"
    if plan.interpreted() != interpreted:
        return f"{INTERPRETER} changed after the kernels were imported"
    return plan.reject(scheme, shape)


def prepare(packed: PackedTensor, dtype: torch.dtype) -> tuple[Any, ...]:
    """Returns what `linear` works on: the spec of the tensor, then its planes in the order of the kernels.

    They take about the bytes of the planes. Making them decodes the codes (a byte each), and the whole weight to
    float32 where there is a sparse part, for the time of the call.
    """
    if dtype not in DTYPES:
        raise CompressError(f"the Triton kernels cannot take inputs of {dtype}", allowed=", ".join(map(str, DTYPES)))
    spec = plan.spec_of(packed.scheme, packed.shape)
    return spec, *plan.plan_of(spec).prepare(packed, dtype)


def linear(x: torch.Tensor, operands: tuple[Any, ...], bias: torch.Tensor | None) -> torch.Tensor:
    """Returns x [..., K] times the prepared weight, plus `bias` [N]: [..., N] in the dtype of `x`."""
    spec, *planes = operands
    result: torch.Tensor = torch.ops.compress.triton_linear(x, planes, bias, spec)
    return result


def dequantise(operands: tuple[Any, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Returns the prepared weight [N, K] as `layouts.unpack` gives it, rounded once if `dtype` is not float32."""
    spec, *planes = operands
    return plan.plan_of(spec).weight(planes, dtype)


def _linear(x: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None, spec: str) -> torch.Tensor:
    x_MK = x.reshape(-1, x.shape[-1]).contiguous()
    return plan.plan_of(spec).product(x_MK, operands, bias).view(*x.shape[:-1], plan.parse(spec)[1][0])


def _like_linear(
    x: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None, spec: str
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], plan.parse(spec)[1][0]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    _, operands, _, ctx.spec = inputs
    ctx.save_for_backward(*operands)


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, list[None], torch.Tensor | None, None]:
    """The planes are constants: gradients reach the input and the bias only."""
    operands = ctx.saved_tensors  # with gradient checkpointing they can be read only once
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = grad @ torch.ops.compress.triton_unpack(list(operands), ctx.spec).to(grad.dtype)
    if ctx.needs_input_grad[2]:
        grad_bias = grad.reshape(math.prod(grad.shape[:-1]), -1).sum(0)
    return grad_x, [None] * len(operands), grad_bias, None


def _unpack(operands: Sequence[torch.Tensor], spec: str) -> torch.Tensor:
    return plan.plan_of(spec).weight(operands, torch.float32)


def _like_unpacked(operands: Sequence[torch.Tensor], spec: str) -> torch.Tensor:
    return operands[0].new_empty(plan.parse(spec)[1], dtype=torch.float32)


define(
    "triton_linear(Tensor x, Tensor[] operands, Tensor? bias, str spec) -> Tensor",
    _linear,
    _like_linear,
    setup_context=_setup_context,
    backward=_backward,
)
define("triton_unpack(Tensor[] operands, str spec) -> Tensor", _unpack, _like_unpacked)


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None
