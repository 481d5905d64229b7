"""The native CPU kernels: C++ of src/ behind a C interface, for every layout of LAYOUTS.

Up to 16 tokens the product is fused with the decoding and summed in float32; above, blocks of rows are decoded in the
dtype of the inputs and multiplied by torch. Decoded values are exactly those of `layouts.unpack`.

Shape letters: T tokens, N out features, K in features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.kernels.native import block as blocks
from compress.kernels.native import loader
from compress.kernels.native import prepare as preparing

FEW_TOKENS = 16
"""Up to here the fused kernels run."""
_DECODED_ELEMENTS = 1 << 22
"""Weights that are decoded at once for many tokens: 16 MiB in float32."""


def reject(scheme: Scheme, shape: tuple[int, int], device: torch.device) -> str | None:
    """Returns why these kernels cannot run such a tensor on `device`, or None."""
    if device.type != "cpu":
        return f"native kernels run on the CPU, not on {device.type}"
    if reason := loader.unavailable():
        return reason
    if scheme.layout not in preparing.LAYOUTS:
        return f"no native kernel for {scheme.layout}"
    return None


def prepare(packed: PackedTensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Returns the form that `linear` works on, whatever the dtype of the inputs is: about the bytes of the planes.

    It is an empty tensor [N, K, 0], whose shape a graph that is traced can see, and the block of the weight.
    """
    return (torch.empty(*packed.shape, 0), preparing.block(packed))


def linear(x: torch.Tensor, operands: tuple[torch.Tensor, ...], bias: torch.Tensor | None) -> torch.Tensor:
    """Returns x [..., K] times the prepared weight, plus `bias` [N]: [..., N] in the dtype of `x`."""
    learning = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    if learning or torch.compiler.is_compiling():  # the dispatcher costs as much time as a small product
        result: torch.Tensor = torch.ops.compress.native_linear(x, list(operands), bias)
        return result
    return _linear(x, operands, bias)


def decode(operands: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the weight [N, K] as float32, exactly `layouts.unpack` of what was prepared."""
    return _decode(operands[1], 0, operands[0].shape[0], torch.float32).T.contiguous()


@torch.library.custom_op(
    "compress::native_linear", mutates_args=(), schema="(Tensor x, Tensor[] operands, Tensor? bias) -> Tensor"
)
def _native_linear(x: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
    return _linear(x, operands, bias)


@_native_linear.register_fake
def _(x: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], operands[0].shape[0]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[1])


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, list[None], torch.Tensor | None]:
    """The weight is a constant: gradients reach the input and the bias only."""
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.compress.native_transposed(grad, list(ctx.saved_tensors))
    if ctx.needs_input_grad[2]:
        grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0)
    return grad_x, [None] * len(ctx.saved_tensors), grad_bias


@torch.library.custom_op(
    "compress::native_transposed", mutates_args=(), schema="(Tensor y, Tensor[] operands) -> Tensor"
)
def _native_transposed(y: torch.Tensor, operands: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns y [..., N] times the weight: [..., K]."""
    rows, columns, _ = operands[0].shape
    y_TN = y.reshape(-1, rows)
    out_TK = y.new_zeros(y_TN.shape[0], columns)
    step = _rows_at_once(columns)
    for first in range(0, rows, step):
        last = min(rows, first + step)
        out_TK += y_TN[:, first:last] @ _decode(operands[1], first, last, y.dtype).T
    return out_TK.view(*y.shape[:-1], columns)


@_native_transposed.register_fake
def _(y: torch.Tensor, operands: Sequence[torch.Tensor]) -> torch.Tensor:
    return y.new_empty((*y.shape[:-1], operands[0].shape[1]))


_native_linear.register_autograd(_backward, setup_context=_setup_context)


def _linear(x: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
    rows, block = operands[0].shape[0], operands[1]
    tokens = math.prod(x.shape[:-1])
    out = x.new_empty((*x.shape[:-1], rows))
    if tokens == 0:
        return out
    if tokens > FEW_TOKENS or x.dtype not in blocks.TYPES:
        _many_tokens(x.reshape(tokens, -1), block, bias, out.view(tokens, rows))
        return out
    x = x.contiguous()
    bias = None if bias is None else bias.contiguous()
    error = loader.library().cn_linear(
        block.data_ptr(),
        x.data_ptr(),
        blocks.TYPES[x.dtype],
        tokens,
        None if bias is None else bias.data_ptr(),
        0 if bias is None else blocks.TYPES[bias.dtype],
        out.data_ptr(),
        blocks.TYPES[out.dtype],
        torch.get_num_threads(),
    )
    assert not error, f"cn_linear says {error}"
    return out


def _many_tokens(x_TK: torch.Tensor, block: torch.Tensor, bias: torch.Tensor | None, out_TN: torch.Tensor) -> None:
    rows, step = out_TN.shape[1], _rows_at_once(x_TK.shape[1])
    for first in range(0, rows, step):
        last = min(rows, first + step)
        weight_KR = _decode(block, first, last, x_TK.dtype)
        if bias is None:
            out_TN[:, first:last] = x_TK @ weight_KR
        else:
            out_TN[:, first:last] = torch.addmm(bias[first:last], x_TK, weight_KR)


def _rows_at_once(columns: int) -> int:
    return max(1, _DECODED_ELEMENTS // columns // blocks.LANES) * blocks.LANES


def _decode(block: torch.Tensor, first: int, last: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns rows `first` (a multiple of 16) to `last` as columns, [K, last − first] in `dtype`."""
    tiles = -(-(last - first) // blocks.LANES)
    native = dtype if dtype in blocks.TYPES else torch.float32
    columns = torch.empty(blocks.field(block, "cols"), tiles * blocks.LANES, dtype=native)
    error = loader.library().cn_decode(
        block.data_ptr(),
        first,
        tiles,
        columns.data_ptr(),
        blocks.TYPES[native],
        columns.shape[1],
        torch.get_num_threads(),
    )
    assert not error, f"cn_decode says {error}"
    return columns[:, : last - first].to(dtype)
