"""Holds the Triton kernels for all layouts: product with one input, product with many inputs, decoding of the weight.
Only the function DECODE depends on the layout.

DECODE(planes, row, tile, slice, S, META) returns the weights of one slice for rows [R, 1], float32 [R, places], equal
to those of `layouts.unpack` bit for bit. Therefore the compiler may not fuse multiplication and addition; accumulation
uses an explicit fma. Row indices past the end are clamped to the last row, and their results are not stored.

Sums are made in an order that depends on the tiling only, so one configuration gives the same bits at every run: what
several programs add up for one output (SPLIT) goes through memory, not through atomic additions.

Shape letters: M tokens of a program, R rows (out features) of a program, N out features, K in features.
"""
# mypy: disable-error-code="no-untyped-def,import-untyped,import-not-found,untyped-decorator,misc"

from __future__ import annotations

import triton
import triton.language as tl

from compress.kernels.triton import delta
from compress.kernels.triton import slices as walk


@triton.jit
def _probe():
    pass


EMULATED: tl.constexpr = tl.constexpr(not isinstance(_probe, triton.JITFunction))
"""Whether Triton's interpreter runs the kernels. It cuts float32 to bfloat16 instead of rounding, and its dot product
takes the bits of bfloat16 for integers; both are done otherwise for it alone."""


@triton.jit
def rounded(value, dtype: tl.constexpr):
    """Returns float32 in `dtype`, rounded to nearest even."""
    if EMULATED and dtype == tl.bfloat16:
        bits = value.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        result = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        result = value.to(dtype)
    return result


@triton.jit
def one_input(
    out, x, bias, order, pointers, columns, values, planes, N, tiles,
    S: tl.constexpr, D: tl.constexpr, META: tl.constexpr, DECODE: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Writes x [K] times the weight to `out` [splits, N]; program (i, s) walks `tiles` tiles of ROWS rows.

    The products are float32 throughout, for every dtype of x.
    """
    split = tl.program_id(1)
    wanted = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(wanted, N - 1)
    acc = tl.zeros([ROWS, S.lanes * S.padded], tl.float32)
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, S.tiles)):
        for slice in tl.static_range(S.unit):
            weight = DECODE(planes, row[:, None], tile, slice, S, META)
            feature = walk.features(order, tile, slice, S)
            if S.ragged:
                weight = tl.where((feature >= 0)[None, :], weight, 0.0)
                input = tl.load(x + feature, mask=feature >= 0, other=0.0)
            else:
                input = tl.load(x + feature)
            acc = tl.fma(weight, tl.broadcast_to(input.to(tl.float32)[None, :], acc.shape), acc)
    result = tl.sum(acc, 1)
    if D.present:
        result += delta.of_one(x, pointers, columns, values, row, split == 0, D, 32)
    if BIAS:
        result += tl.load(bias + row).to(tl.float32)
    tl.store(out + split * N + wanted, rounded(result, out.dtype.element_ty), mask=wanted < N)


@triton.jit
def many_inputs(
    out, x, ordered, bias, order, pointers, columns, values, planes, N, tokens, tiles,
    S: tl.constexpr, D: tl.constexpr, META: tl.constexpr, DECODE: tl.constexpr, BIAS: tl.constexpr,
    TOKENS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Writes x [tokens, K] times the weight to `out` [splits, tokens, N]; program (i, j, s) makes TOKENS × ROWS of it.

    `ordered` is x with its features by place where S is ordered, else x itself. Weights are rounded to the dtype of x,
    as a dense layer of that dtype has them; products are summed in float32.
    """
    split = tl.program_id(2)
    wanted = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(wanted, N - 1)
    token = tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)
    wide_token = token.to(tl.int64)[:, None]
    known = (token < tokens)[:, None]
    stride: tl.constexpr = S.tiles * S.unit * S.lanes * S.padded if S.ordered else S.features
    acc = tl.zeros([TOKENS, ROWS], tl.float32)
    for tile in range(split * tiles, tl.minimum((split + 1) * tiles, S.tiles)):
        for slice in tl.static_range(S.unit):
            weight = DECODE(planes, row[:, None], tile, slice, S, META)
            if S.ragged:
                feature = walk.features(order, tile, slice, S)
                inside = feature >= 0
                weight = tl.where(inside[None, :], weight, 0.0)
                at = walk.places(tile, slice, S) if S.ordered else feature
                input = tl.load(ordered + wide_token * stride + at[None, :], mask=known & inside[None, :], other=0.0)
            else:
                at = walk.places(tile, slice, S)
                input = tl.load(ordered + wide_token * stride + at[None, :], mask=known, other=0.0)
            weight = rounded(weight, x.dtype.element_ty)
            if EMULATED:
                input, weight = input.to(tl.float32), weight.to(tl.float32)
            # ieee: no rounding of float32 inputs to tf32
            acc = tl.dot(input, tl.trans(weight), acc, input_precision="ieee")
    if D.present:
        acc = delta.of_many(acc, x, pointers, columns, values, row, token, tokens, split == 0, S.features, D)
    if BIAS:
        acc += tl.load(bias + row).to(tl.float32)[None, :]
    at_out = (split.to(tl.int64) * tokens + wide_token) * N + wanted[None, :]
    tl.store(out + at_out, rounded(acc, out.dtype.element_ty), mask=known & (wanted < N)[None, :])


@triton.jit
def sum_splits(out, parts, bias, N, elements, SPLITS: tl.constexpr, BIAS: tl.constexpr, SIZE: tl.constexpr):
    """Writes the sum of `parts` [SPLITS, elements], first to last, to `out`."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = at < elements
    total = tl.load(parts + at, mask=inside, other=0.0)
    for split in range(1, SPLITS):
        total += tl.load(parts + split * elements + at, mask=inside, other=0.0)
    if BIAS:
        total += tl.load(bias + at % N, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, rounded(total, out.dtype.element_ty), mask=inside)


@triton.jit
def decoded(out, order, planes, N, S: tl.constexpr, META: tl.constexpr, DECODE: tl.constexpr, ROWS: tl.constexpr):
    """Writes the weight without its sparse part to `out` [N, K] in its dtype; program (i, t) makes one tile."""
    wanted = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row, tile = tl.minimum(wanted, N - 1), tl.program_id(1)
    for slice in tl.static_range(S.unit):
        weight = DECODE(planes, row[:, None], tile, slice, S, META)
        feature = walk.features(order, tile, slice, S)
        at = wanted.to(tl.int64)[:, None] * S.features + feature[None, :]
        inside = (wanted < N)[:, None] & (feature >= 0)[None, :]
        tl.store(out + at, rounded(weight, out.dtype.element_ty), mask=inside)
