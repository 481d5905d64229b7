"""Defines the order in which the kernels read a weight: tiles of columns, divided into slices.

A tile has `unit` slices of `lanes` codes. Every lane has `unit` codes of a row, packed densely into whole 32-bit words.
So the shift of a code depends only on its slice number, a compile-time constant for every number of bits, and
neighbouring lanes read neighbouring words. A code covers `width` columns (one for integer layouts, a vector of a
codebook, a group of n:m).

Where the slices of a lane are neighbours in a row (`nested`), a small group of columns lies in one lane, which decodes
its scale once; else a slice is a run of columns that all have one scale. Places are numbered in the order of the
kernel, slice by slice; `order` gives the input feature at each place.

Shape letters: N out features, K in features, C codes of a row, T tiles, L lanes, U codes of a lane (unit), W words of
a lane.
"""
# mypy: disable-error-code="no-untyped-def,import-untyped,import-not-found,untyped-decorator,misc"

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from compress.format.layouts import bits as bitstream

_WORD = 32
FEWEST_LANES = 16
"""Smallest number of places in a slice: Triton's `dot` needs 16."""
_MOST_LANES = 128
_NESTED_UP_TO = 32
_NESTED_LANES = 32


class Slices(NamedTuple):
    """The walk over one weight; a compile-time constant of the kernels."""

    features: int
    """K."""
    tiles: int
    unit: int
    lanes: int
    width: int
    """Columns of one code."""
    padded: int
    """Places of one code: the smallest power of two that is at least `width`."""
    nested: bool
    permuted: bool
    """Whether the feature at a place must be read from `order`."""
    ordered: bool
    """Whether the features are not in their natural order, because they are permuted or nested."""
    ragged: bool
    """Whether some places have no feature."""


def period(bits: int) -> int:
    """Returns the fewest codes that fill whole words."""
    return _WORD // math.gcd(bits, _WORD)


def slices(
    features: int, *, unit: int, lanes: int, width: int = 1, nested: bool = False, permuted: bool = False
) -> Slices:
    """Returns the walk over `features` columns."""
    tiles = -(-features // (unit * lanes * width))
    padded = triton.next_power_of_2(width)
    ragged = tiles * unit * lanes * width != features or padded != width
    return Slices(features, tiles, unit, lanes, width, padded, nested, permuted, nested or permuted, ragged)


def grouped(features: int, bits: int, group: int, permuted: bool = False) -> tuple[Slices, bool]:
    """Returns the walk over codes of `bits` in groups, and whether all codes of a slice are of one group.

    A small group lies in one lane; of a larger one a slice is a part.
    """
    unit, lanes = period(bits), group & -group
    nested = group == lanes and group <= min(_NESTED_UP_TO, features // 2)
    if nested:
        unit, lanes = max(unit, group), _NESTED_LANES
    lanes = max(FEWEST_LANES, min(lanes, _MOST_LANES))
    while lanes > FEWEST_LANES and unit * lanes > features:
        lanes //= 2
    walk = slices(features, unit=unit, lanes=lanes, nested=nested, permuted=permuted)
    return walk, not nested and group % lanes == 0


def repack(codes_NC: torch.Tensor, bits: int, walk: Slices) -> torch.Tensor:
    """Returns the words of the codes in the order of the kernel, int32 [N, T, W, L]; missing codes are 0."""
    lanes_NTLU = by_lane(codes_NC, walk)
    rows, tiles, lanes, unit = lanes_NTLU.shape
    words = bitstream.pack_rows(lanes_NTLU.reshape(-1, unit), bits)
    return words.view(rows, tiles, lanes, -1).transpose(2, 3).contiguous()


def by_slice(values_NC: torch.Tensor, walk: Slices) -> torch.Tensor:
    """Returns plain numbers in the order of the kernel, [N, T, U, L]; missing ones are 0."""
    return by_lane(values_NC, walk).transpose(2, 3).contiguous()


def by_lane(codes_NC: torch.Tensor, walk: Slices) -> torch.Tensor:
    """Returns a view (or a padded copy) of the codes as [N, T, L, U]."""
    rows, count = codes_NC.shape
    full = torch.nn.functional.pad(codes_NC, (0, walk.tiles * walk.unit * walk.lanes - count))
    if walk.nested:
        return full.view(rows, walk.tiles, walk.lanes, walk.unit)
    return full.view(rows, walk.tiles, walk.unit, walk.lanes).transpose(2, 3)


def order(walk: Slices, perm_K: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """Returns the input feature at every place of an ordered walk, int32; −1 where there is none. Empty if not ordered.

    `perm_K` gives the feature of each stored column. Only walks of width 1 are ordered.
    """
    if not walk.ordered:
        return torch.empty(0, dtype=torch.int32, device=device)
    feature_K = torch.arange(walk.features, device=device) if perm_K is None else perm_K
    # shifted by one, so that the zeros of the padding differ from feature 0
    places = by_slice((feature_K.to(torch.int32) + 1)[None], walk)
    return places.flatten() - 1


@triton.jit
def code(words, row, tile, slice: tl.constexpr, BITS: tl.constexpr, UNIT: tl.constexpr, S: tl.constexpr):
    """Returns code number `slice` of UNIT in every lane for rows [R, 1], uint32 [R, L]."""
    # loads of the same word by later slices are one load: the compiler sees equal addresses
    first: tl.constexpr = slice * BITS // 32
    shift: tl.constexpr = slice * BITS % 32
    per_lane: tl.constexpr = UNIT * BITS // 32
    address = words + ((row * S.tiles + tile) * per_lane + first) * S.lanes + tl.arange(0, S.lanes)[None, :]
    found = tl.load(address).to(tl.uint32, bitcast=True) >> shift
    if shift + BITS > 32:
        found |= tl.load(address + S.lanes).to(tl.uint32, bitcast=True) << (32 - shift)
    return found & ((1 << BITS) - 1)


@triton.jit
def plain(values, row, tile, slice: tl.constexpr, UNIT: tl.constexpr, S: tl.constexpr):
    """Returns number `slice` of UNIT in every lane, as `by_slice` stored them, [R, L]."""
    address = ((row * S.tiles + tile) * UNIT + slice) * S.lanes + tl.arange(0, S.lanes)[None, :]
    return tl.load(values + address)


@triton.jit
def number(tile, slice: tl.constexpr, S: tl.constexpr):
    """Returns which code of the row each lane of a slice holds, int32 [L]."""
    lane = tl.arange(0, S.lanes)
    return (tile * S.lanes + lane) * S.unit + slice if S.nested else (tile * S.unit + slice) * S.lanes + lane


@triton.jit
def group(tile, slice: tl.constexpr, GROUP: tl.constexpr, SHARED: tl.constexpr, S: tl.constexpr):
    """Returns the group of GROUP codes that each lane of a slice is in, int32 [1, L]; one number if all share it."""
    if SHARED:
        found = (tile * S.unit + slice) * S.lanes // GROUP
    elif S.nested:
        # written so that all codes of one group have one address
        found = ((tile * S.lanes + tl.arange(0, S.lanes)) * (S.unit // GROUP) + slice // GROUP)[None, :]
    else:
        found = (number(tile, slice, S) // GROUP)[None, :]
    return found


@triton.jit
def places(tile, slice: tl.constexpr, S: tl.constexpr):
    """Returns the places of one slice, int32 [L · padded], consecutive."""
    return (tile * S.unit + slice) * (S.lanes * S.padded) + tl.arange(0, S.lanes * S.padded)


@triton.jit
def features(order, tile, slice: tl.constexpr, S: tl.constexpr):
    """Returns the input feature at each place of one slice, int32 [L · padded]; −1 where there is none."""
    place = places(tile, slice, S)
    if S.permuted:
        feature = tl.load(order + place)
    elif S.nested:
        feature = number(tile, slice, S)
        if S.ragged:
            feature = tl.where(feature < S.features, feature, -1)
    elif S.width == S.padded:
        feature = place
        if S.ragged:
            feature = tl.where(place < S.features, place, -1)
    else:
        column = place % S.padded
        feature = place // S.padded * S.width + column
        feature = tl.where((column < S.width) & (feature < S.features), feature, -1)
    return feature


@triton.jit
def real(code):
    """Returns codes below 2²³ as float32, exactly."""
    # 2²³ + code, written as bits: a conversion of integers takes twice as long as this
    return (code | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0
