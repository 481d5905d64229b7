"""Adds the entries of the sparse part to products and to a decoded weight, in Triton.

Shape letters: N out features, K in features, Z entries.
"""
# mypy: disable-error-code="no-untyped-def,import-untyped,import-not-found,untyped-decorator,misc"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from compress.format import layouts
from compress.format.layouts import delta
from compress.format.packed import PackedTensor


class Delta(NamedTuple):
    """The constants of a sparse part."""

    present: bool
    narrow: bool
    """Whether columns are 16 bits."""
    exponent: int
    """The unit of the values is 2^exponent."""


def describe(entries: int, in_features: int, exponent: int = 0) -> Delta:
    """Returns the constants of a part of `entries`."""
    return Delta(entries > 0, delta.column_dtype(in_features) == torch.uint16, exponent)


def prepare(packed: PackedTensor) -> tuple[torch.Tensor, ...]:
    """Returns row pointers, columns and values as stored, then row, column and *whole* weight of every entry.

    The whole weight, as float32, is what a decoded matrix must hold there: rounded to another dtype once, not twice.
    It is found by decoding the tensor, N·K floats for a moment. Without a sparse part all are empty.
    """
    planes = packed.planes
    if (places := delta.expand(planes)) is None:
        nothing = torch.empty(0, dtype=torch.int32, device=planes["weight"].device)
        return (nothing,) * 6
    whole_Z = layouts.unpack(packed)[tuple(places)]
    column_Z = planes["delta_col"]
    if column_Z.dtype == torch.uint16:
        column_Z = column_Z.view(torch.int16)  # the same bits in a dtype that all versions of Triton take
    rows, columns = (place.to(torch.int32) for place in places)
    return planes["delta_rowptr"], column_Z, planes["delta_val"], rows, columns, whole_Z


def scatter(weight_NK: torch.Tensor, operands: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Returns the decoded weight with the whole weights of the entries put in, in place."""
    row_Z, column_Z, whole_Z = operands[3:]
    return weight_NK.index_put_((row_Z, column_Z), whole_Z.to(weight_NK.dtype))


@triton.jit
def entry(columns, values, at, inside, D: tl.constexpr):
    """Returns column and value of the entries `at`, 0 for those that are not `inside`."""
    column = tl.load(columns + at, mask=inside, other=0).to(tl.int32)
    if D.narrow:
        column &= 0xFFFF
    value = tl.load(values + at, mask=inside, other=0.0).to(tl.float32)
    return column, value * (2.0**D.exponent)


@triton.jit
def of_one(x, pointers, columns, values, row, enabled, D: tl.constexpr, CHUNK: tl.constexpr):
    """Returns what the entries of rows [R] add to the product with one input x [K], float32 [R]."""
    start, end = tl.load(pointers + row), tl.load(pointers + row + 1)
    longest = tl.where(enabled, tl.max(end - start), 0)
    added = tl.zeros([row.shape[0], CHUNK], tl.float32)
    for first in range(0, longest, CHUNK):
        at = start[:, None] + first + tl.arange(0, CHUNK)[None, :]
        inside = at < end[:, None]
        column, value = entry(columns, values, at, inside, D)
        added = tl.fma(value, tl.load(x + column, mask=inside, other=0.0).to(tl.float32), added)
    return tl.sum(added, 1)


@triton.jit
def of_many(acc, x, pointers, columns, values, row, token, tokens, enabled, K: tl.constexpr, D: tl.constexpr):
    """Returns `acc`, float32 [M, R], and what the entries of rows [R] add for x [tokens, K] at `token` [M]."""
    start, end = tl.load(pointers + row), tl.load(pointers + row + 1)
    longest = tl.where(enabled, tl.max(end - start), 0)
    for number in range(0, longest):
        inside = start + number < end
        column, value = entry(columns, values, start + number, inside, D)
        wanted = (token < tokens)[:, None] & inside[None, :]
        input = tl.load(x + token.to(tl.int64)[:, None] * K + column[None, :], mask=wanted, other=0.0)
        acc = tl.fma(input.to(tl.float32), tl.broadcast_to(value[None, :], acc.shape), acc)
    return acc
