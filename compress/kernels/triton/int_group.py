"""Decodes int_group.v1 in Triton. Scales keep their dtype; zero points are unpacked to bytes.

Shape letters: N out features, K in features, G groups.
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


class Meta(NamedTuple):
    """Constants of the decoding."""

    bits: int
    symmetric: bool
    group: int
    groups: int
    shared: bool
    """Whether all codes of a slice have one scale; the statistics then stand group by group, [G, N], else [N, G]."""
    rows: int
    """N."""


def reject(scheme: Scheme, shape: tuple[int, int]) -> str | None:
    """Returns None: all bits and groups run."""
    return None


def plan(scheme: Scheme, shape: tuple[int, int]) -> Walked:
    """Returns how a tensor of this scheme and shape runs."""
    features, group = shape[1], scheme.group_size
    slices, shared = walk.grouped(features, scheme.bits, group)
    meta = Meta(scheme.bits, bool(scheme.options.get("symmetric")), group, features // group, shared, shape[0])
    return Walked(shape, slices, delta.describe(scheme.outliers, features), meta, decode, planes, 3)


def planes(packed: PackedTensor, plan: Walked) -> tuple[torch.Tensor, ...]:
    """Returns words, scales and zero points."""
    codes_NK = bitstream.unpack_rows(packed.planes["weight"], packed.scheme.bits, packed.shape[1])
    return walk.repack(codes_NK, packed.scheme.bits, plan.slices), *statistics(packed, plan.meta.shared)


def statistics(packed: PackedTensor, shared: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns scales and zero points (bytes) as [G, N] if `shared`, else [N, G]; no zero points of symmetric codes."""
    scale_NG = packed.planes["scale"]
    if "zero_point" in packed.planes:
        zero_GN = bitstream.unpack_rows(packed.planes["zero_point"].T, packed.scheme.bits, packed.shape[0])
    else:
        zero_GN = torch.empty(0, 0, dtype=torch.uint8, device=scale_NG.device)
    return (scale_NG.T.contiguous(), zero_GN) if shared else (scale_NG.contiguous(), zero_GN.T.contiguous())


@triton.jit
def dequantise(code, scales, zeros, row, group, META: tl.constexpr):
    """Returns (code − zero) · scale for rows [R, 1]; `group` is a scalar where META says shared, else [1, lanes]."""
    # groups past the last belong to places without a feature
    group = tl.minimum(group, META.groups - 1)
    at = group * META.rows + row if META.shared else row * META.groups + group
    # the code as the last bits of 2²³ + code: taking 2²³ + zero from it is exact, and saves converting an integer
    number = (code | 0x4B000000).to(tl.float32, bitcast=True)
    if META.symmetric:
        number -= 8388608.0 + (1 << (META.bits - 1))
    else:
        number -= tl.load(zeros + at).to(tl.float32) + 8388608.0
    return number * tl.load(scales + at).to(tl.float32)


@triton.jit
def decode(planes, row, tile, slice: tl.constexpr, S: tl.constexpr, META: tl.constexpr):
    """Returns the weights of one slice, float32 [R, lanes]."""
    words, scales, zeros = planes
    group = walk.group(tile, slice, META.group, META.shared, S)
    return dequantise(walk.code(words, row, tile, slice, META.bits, S.unit, S), scales, zeros, row, group, META)
