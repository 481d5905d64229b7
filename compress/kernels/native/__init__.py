"""Runs the native CPU kernels: the C++ code in src/, called through a C interface, for every layout.

For up to 16 tokens, decoding and product are fused and sums are float32. For more tokens, blocks of rows are decoded in
the dtype of the inputs and multiplied: in bfloat16 by our own kernel if the processor has instructions for it, else by
torch. Decoded values are exactly those of `layouts.unpack`.

Shape letters: T tokens, N out features, K in features.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from compress.format.layouts import composing
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.kernels.define import define
from compress.kernels.native import block as blocks
from compress.kernels.native import loader
from compress.kernels.native import prepare as preparing

FEW_TOKENS = 16
"""Largest number of tokens for the fused kernels."""
_ROWS_AT_ONCE = 512
"""Rows that are decoded at once for many tokens: fewer make torch's product slower, more leave the caches."""


def reject(scheme: Scheme, shape: tuple[int, int], device: torch.device) -> str | None:
    """Returns why these kernels cannot run such a tensor on `device`, or None."""
    if device.type != "cpu":
        return f"native kernels run on the CPU, not on {device.type}"
    if reason := loader.unavailable():
        return reason
    return preparing.reject(scheme)


def prepare(packed: PackedTensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Returns the operands of `linear`, which do not depend on `dtype` and take about the bytes of the planes.

    They are an empty tensor [N, K, 0], which gives a traced graph the shape, and the blocks of the weight.
    """
    return (torch.empty(*packed.shape, 0), *preparing.steps(packed))


def linear(x: torch.Tensor, operands: tuple[torch.Tensor, ...], bias: torch.Tensor | None) -> torch.Tensor:
    """Returns x [..., K] times the prepared weight, plus `bias` [N]: [..., N] in the dtype of `x`."""
    learning = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    if learning or torch.compiler.is_compiling():  # the dispatcher costs as much time as a small product
        result: torch.Tensor = torch.ops.compress.native_linear(x, list(operands), bias)
        return result
    return _linear(x, operands, bias)


def decode(operands: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns the weight [N, K] as float32, exactly `layouts.unpack` of what was prepared."""
    whole, factors = _split(operands)
    weights = [_decode(block) for block in (*whole, *factors)]
    added = composing.product(weights[-1], weights[-2]) if factors else None
    if not whole:
        assert added is not None
        return added
    return weights[0] if added is None else weights[0] + added


def _decode(block: torch.Tensor) -> torch.Tensor:
    return torch.cat([weight_KR.T.contiguous() for _, weight_KR in _pieces(block, torch.float32)])


def _like_linear(x: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], operands[0].shape[0]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[1])


def _backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, list[None], torch.Tensor | None]:
    """The weight is a constant: gradients reach the input and the bias only."""
    operands = ctx.saved_tensors  # with gradient checkpointing they can be read only once
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = torch.ops.compress.native_transposed(grad, list(operands))
    if ctx.needs_input_grad[2]:
        grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0)
    return grad_x, [None] * len(operands), grad_bias


def _linear_transposed(y: torch.Tensor, operands: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns y [..., N] times the weight: [..., K]."""
    y_TN, (whole, factors) = y.reshape(-1, y.shape[-1]), _split(operands)
    terms = [_transposed(y_TN, block) for block in whole]
    if factors:
        right, left = factors
        terms.append(_transposed(_transposed(y_TN, left), right))
    return functools.reduce(torch.add, terms).view(*y.shape[:-1], operands[0].shape[1])


def _like_transposed(y: torch.Tensor, operands: Sequence[torch.Tensor]) -> torch.Tensor:
    return y.new_empty((*y.shape[:-1], operands[0].shape[1]))


def _split(operands: Sequence[torch.Tensor]) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    """Returns the blocks that are weights by themselves, and the factors of a product, the right one first."""
    count = len(operands) % 2  # marker and one block; marker and two factors; marker, block and two factors
    return operands[1 : 2 - count], operands[2 - count :]


def _linear(x: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
    tokens, rows = math.prod(x.shape[:-1]), operands[0].shape[0]
    x_TK = x.reshape(tokens, -1).contiguous() if tokens else x.reshape(0, x.shape[-1])
    if len(operands) == 2:
        return _product(x_TK, operands[1], bias, x.dtype).view(*x.shape[:-1], rows)
    whole, (right, left) = _split(operands)
    # what is between the factors, and what is added up, is rounded only once where the kernel is our own
    between = torch.float32 if tokens <= FEW_TOKENS and x.dtype in blocks.TYPES else x.dtype
    out_TN = _product(_product(x_TK, right, None, between), left, bias, between if whole else x.dtype)
    for block in whole:
        out_TN = out_TN + _product(x_TK, block, None, between)
    return out_TN.to(x.dtype).view(*x.shape[:-1], rows)


def _product(x_TK: torch.Tensor, block: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Returns contiguous x times one block, plus `bias`, in `dtype`; for many tokens that must be the dtype of x."""
    out_TN = x_TK.new_empty(x_TK.shape[0], blocks.field(block, "rows"), dtype=dtype)
    if not x_TK.shape[0]:
        return out_TN
    if blocks.field(block, "kind") == blocks.Kind.ROUNDED:
        return _rounded(x_TK, block, bias)
    library, few = loader.library(), x_TK.shape[0] <= FEW_TOKENS and x_TK.dtype in blocks.TYPES
    if not few and not (x_TK.dtype == torch.bfloat16 and library.cn_has_many()):
        _many_tokens(x_TK, block, bias, out_TN)
        return out_TN
    bias = None if bias is None else bias.contiguous()
    error = (library.cn_linear if few else library.cn_many)(
        block.data_ptr(),
        x_TK.data_ptr(),
        blocks.TYPES[x_TK.dtype],
        x_TK.shape[0],
        None if bias is None else bias.data_ptr(),
        0 if bias is None else blocks.TYPES[bias.dtype],
        out_TN.data_ptr(),
        blocks.TYPES[dtype],
        torch.get_num_threads(),
    )
    assert not error, f"the library says {error}"
    return out_TN


def _rounded(x_TK: torch.Tensor, block: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Returns x, rounded to 8 bits, times one block, plus `bias`; inputs of other dtypes are read as float32."""
    x = x_TK if x_TK.dtype in blocks.TYPES else x_TK.float()
    bias = None if bias is None else bias.to(bias.dtype if bias.dtype in blocks.TYPES else torch.float32).contiguous()
    out_TN = x.new_empty(x.shape[0], blocks.field(block, "rows"))
    error = loader.library().cn_rounded(
        block.data_ptr(),
        x.data_ptr(),
        blocks.TYPES[x.dtype],
        x.shape[0],
        None if bias is None else bias.data_ptr(),
        0 if bias is None else blocks.TYPES[bias.dtype],
        out_TN.data_ptr(),
        blocks.TYPES[x.dtype],
        torch.get_num_threads(),
    )
    assert not error, f"cn_rounded says {error}"
    return out_TN.to(x_TK.dtype)


def _many_tokens(x_TK: torch.Tensor, block: torch.Tensor, bias: torch.Tensor | None, out_TN: torch.Tensor) -> None:
    bias = None if bias is None else bias.to(x_TK.dtype)
    for rows, weight_KR in _pieces(block, x_TK.dtype):
        if bias is None:
            out_TN[:, rows] = x_TK @ weight_KR
        else:
            out_TN[:, rows] = torch.addmm(bias[rows], x_TK, weight_KR)


def _transposed(y_TN: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """Returns y times one block: [T, K]."""
    out_TK = y_TN.new_zeros(y_TN.shape[0], blocks.field(block, "cols"))
    for rows, weight_KR in _pieces(block, y_TN.dtype):
        out_TK += y_TN[:, rows] @ weight_KR.T
    return out_TK


def _pieces(block: torch.Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yields some rows at a time as columns, [K, R] in `dtype`; each piece takes the place of the one before.

    Fresh memory for each would cost more than the decoding: the system clears its pages.
    """
    rows, columns = blocks.field(block, "rows"), blocks.field(block, "cols")
    native = dtype if dtype in blocks.TYPES else torch.float32
    # two more tiles: columns whose distance is a power of two would share few places of a cache
    piece_KR = torch.empty(columns, (-(-min(_ROWS_AT_ONCE, rows) // blocks.LANES) + 2) * blocks.LANES, dtype=native)
    for first in range(0, rows, _ROWS_AT_ONCE):
        last = min(rows, first + _ROWS_AT_ONCE)
        error = loader.library().cn_decode(
            block.data_ptr(),
            first,
            -(-(last - first) // blocks.LANES),
            piece_KR.data_ptr(),
            blocks.TYPES[native],
            piece_KR.shape[1],
            torch.get_num_threads(),
        )
        assert not error, f"cn_decode says {error}"
        yield slice(first, last), piece_KR[:, : last - first].to(dtype)


define(
    "native_linear(Tensor x, Tensor[] operands, Tensor? bias) -> Tensor",
    _linear,
    _like_linear,
    setup_context=_setup_context,
    backward=_backward,
)
define("native_transposed(Tensor y, Tensor[] operands) -> Tensor", _linear_transposed, _like_transposed)
