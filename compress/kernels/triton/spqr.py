"""Decodes spqr.v1 in Triton: both statistics codes of a group share a byte; its second level is stored together.

Shape letters: N out features, K in features, G groups, R runs of rows.
"""
# mypy: disable-error-code="no-untyped-def,import-untyped,import-not-found,untyped-decorator,misc"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from compress.format.layouts import bits as bitstream
from compress.format.layouts import spqr
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.kernels.triton import delta
from compress.kernels.triton import slices as walk
from compress.kernels.triton.launch import Walked

_NIBBLE = 4


class Meta(NamedTuple):
    """Constants of the decoding."""

    bits: int
    group: int
    groups: int
    shared: bool
    """Whether all codes of a slice are of one group; if so, they stand as [G, N] and [G, R, 4], else rows first."""
    rows: int
    """N."""
    shift: int
    """Where the code of the zero begins, above that of the scale: 4 in a byte, 8 in 16 bits."""
    run: int
    """Rows that share a second level."""
    runs: int
    exponent: int


def reject(scheme: Scheme, shape: tuple[int, int]) -> str | None:
    """Returns None: all bits, groups and orders run."""
    return None


def plan(scheme: Scheme, shape: tuple[int, int]) -> Walked:
    """Returns how a tensor of this scheme and shape runs."""
    options, features, group = scheme.options, shape[1], scheme.group_size
    slices, shared = walk.grouped(features, scheme.bits, group, permuted=bool(options.get("permuted")))
    shift = _NIBBLE if options["stats_bits"] <= _NIBBLE else 2 * _NIBBLE
    run, exponent = options["stats_group"], options["exponent"]
    meta = Meta(scheme.bits, group, features // group, shared, shape[0], shift, run, -(-shape[0] // run), exponent)
    return Walked(shape, slices, delta.describe(scheme.outliers, features, exponent), meta, decode, planes, 3)


def planes(packed: PackedTensor, plan: Walked) -> tuple[torch.Tensor, ...]:
    """Returns words, codes of the statistics and their second level: step and lowest of the scale, then of the zero."""
    (rows, features), meta = packed.shape, plan.meta
    codes_NK = bitstream.unpack_rows(packed.planes["weight"], meta.bits, features)
    scale_NG, zero_NG = (
        bitstream.unpack_flat(packed.planes[name], packed.scheme.options["stats_bits"], (rows, meta.groups))
        for name in ("scale_code", "zero_code")
    )
    dtype = torch.uint8 if meta.shift == _NIBBLE else torch.int32
    stats_NG = scale_NG.to(dtype) | zero_NG.to(dtype) << meta.shift
    level_RG4 = torch.stack([packed.planes[name] for name in spqr.SECOND_LEVEL], -1)
    if meta.shared:
        stats_NG, level_RG4 = stats_NG.T.contiguous(), level_RG4.transpose(0, 1).contiguous()
    return walk.repack(codes_NK, meta.bits, plan.slices), stats_NG, level_RG4


@triton.jit
def decode(planes, row, tile, slice: tl.constexpr, S: tl.constexpr, META: tl.constexpr):
    """Returns the weights of one slice, float32 [R, lanes], in the order and the roundings of `unpack`."""
    words, stats, level = planes
    # groups past the last belong to places without a feature
    group = tl.minimum(walk.group(tile, slice, META.group, META.shared, S), META.groups - 1)
    run = row // META.run
    at = group * META.rows + row if META.shared else row * META.groups + group
    base = level + 4 * (group * META.runs + run if META.shared else run * META.groups + group)
    pair = tl.load(stats + at).to(tl.int32)
    step, lowest = tl.load(base).to(tl.float32), tl.load(base + 1).to(tl.float32)
    scale = (lowest + step * walk.real(pair & ((1 << META.shift) - 1))) * (2.0**META.exponent)
    step, lowest = tl.load(base + 2).to(tl.float32), tl.load(base + 3).to(tl.float32)
    zero = lowest + step * walk.real(pair >> META.shift)
    return scale * (walk.real(walk.code(words, row, tile, slice, META.bits, S.unit, S)) - zero)
