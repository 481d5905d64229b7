"""Decodes additive.v1 in Triton: each code selects a vector of a codebook, which stays in the caches.

Shape letters: N out features, K in features, M codebooks, J groups of g columns, V vectors of a codebook.
"""
# mypy: disable-error-code="no-untyped-def,import-untyped,import-not-found,untyped-decorator,misc"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.kernels.triton import delta
from compress.kernels.triton import slices as walk
from compress.kernels.triton.launch import Walked

_PLACES = 128
_WIDEST = 64
_MOST_BOOKS = 8


class Meta(NamedTuple):
    """Constants of the decoding."""

    bits: int
    books: int
    stride: int
    """Words of all codes of one codebook."""


def reject(scheme: Scheme, shape: tuple[int, int]) -> str | None:
    """Returns why such a tensor cannot run, or None: kernels grow with the codebooks and the columns of a code."""
    if scheme.group_size > _WIDEST:
        return f"vectors of {scheme.group_size} columns, up to {_WIDEST} run"
    if scheme.options["codebooks"] > _MOST_BOOKS:
        return f"{scheme.options['codebooks']} codebooks, up to {_MOST_BOOKS} run"
    return None


def plan(scheme: Scheme, shape: tuple[int, int]) -> Walked:
    """Returns how a tensor of this scheme and shape runs."""
    unit, width = walk.period(scheme.bits), scheme.group_size
    lanes = max(1, _PLACES // triton.next_power_of_2(width))
    # a word holds few wide codes, many narrow ones: tiles should not be much wider than the weight
    while lanes * width > walk.FEWEST_LANES and lanes > 1 and unit * lanes * width > shape[1]:
        lanes //= 2
    lanes = max(lanes, -(-walk.FEWEST_LANES // triton.next_power_of_2(width)))
    slices = walk.slices(shape[1], unit=unit, lanes=lanes, width=width)
    stride = shape[0] * slices.tiles * lanes * (unit * scheme.bits // 32)
    meta = Meta(scheme.bits, scheme.options["codebooks"], stride)
    return Walked(shape, slices, delta.describe(0, shape[1]), meta, decode, planes, 3)


def planes(packed: PackedTensor, plan: Walked) -> tuple[torch.Tensor, ...]:
    """Returns words [M, ...], codebooks and scales."""
    rows, groups, books = packed.shape[0], packed.shape[1] // packed.scheme.group_size, plan.meta.books
    codes = bitstream.unpack_rows(packed.planes["weight"], plan.meta.bits, groups * books).view(rows, groups, books)
    words = torch.stack([walk.repack(codes[..., book], plan.meta.bits, plan.slices) for book in range(books)])
    return words, packed.planes["codebooks"].contiguous(), packed.planes["scale"]


@triton.jit
def decode(planes, row, tile, slice: tl.constexpr, S: tl.constexpr, META: tl.constexpr):
    """Returns the weights of one slice, float32 [R, lanes · padded]."""
    words, vectors, scales = planes
    column = tl.arange(0, S.padded)[None, None, :]
    total = tl.zeros([row.shape[0], S.lanes, S.padded], tl.float32)
    for book in tl.static_range(META.books):
        code = walk.code(words + book * META.stride, row, tile, slice, META.bits, S.unit, S).to(tl.int32)
        at = ((book << META.bits) + code)[:, :, None] * S.width + column
        if S.width == S.padded:
            vector = tl.load(vectors + at)
        else:
            vector = tl.load(vectors + at, mask=column < S.width, other=0.0)
        total += vector.to(tl.float32)
    return tl.reshape(total, [row.shape[0], S.lanes * S.padded]) * tl.load(scales + row).to(tl.float32)
