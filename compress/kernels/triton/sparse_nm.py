"""sparse_nm.v1 for Triton: the kept weights of a group of m are spread over its columns as they are decoded.

The first kept weights of all groups are one stream, the second ones another, and so on; so are their places. Values are
dense.v1 or int_group.v1 without a sparse part. An added product (slorb) runs as two dense ones.

Shape letters: N out features, K in features, J kept inputs of a row, s rank of the added product.
"""
# mypy: disable-error-code="no-untyped-def,import-untyped,import-not-found,untyped-decorator,misc"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from compress.format import layouts
from compress.format.layouts import bits as bitstream
from compress.format.layouts import composing, dense, sparse_nm
from compress.format.layouts import int_group as integers
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.kernels.triton import delta, int_group
from compress.kernels.triton import slices as walk
from compress.kernels.triton.launch import Walked

_WIDEST = 16


class Meta(NamedTuple):
    """Constants of the decoding."""

    kept: int
    """n."""
    place_bits: int
    place_stride: int
    """Words of one stream of places."""
    integers: bool
    value_stride: int
    """Words, or numbers where the values are dense, of one stream of values."""
    values: int_group.Meta
    """Constants of integer values; meaningless for dense ones."""


def reject(scheme: Scheme, shape: tuple[int, int]) -> str | None:
    """Returns why such a tensor cannot run, or None."""
    values = composing.part_scheme(scheme, "values")
    if scheme.options["m"] > _WIDEST:
        return f"groups of {scheme.options['m']}, up to {_WIDEST} run"
    if values.layout not in (dense.PART_LAYOUT, integers.LAYOUT):
        return f"values of {values.layout} in n:m, {dense.PART_LAYOUT} and {integers.LAYOUT} run"
    if values.outliers:
        return "values with a sparse part in n:m"
    return None


def plan(scheme: Scheme, shape: tuple[int, int]) -> Walked | Added:
    """Returns how a tensor of this scheme and shape runs."""
    n, m = (scheme.options[name] for name in ("n", "m"))
    values, place_bits = composing.part_scheme(scheme, "values"), sparse_nm.index_bits(m)
    whole = values.layout == integers.LAYOUT
    unit = max(walk.period(place_bits), walk.period(values.bits) if whole else 1)
    lanes = walk.FEWEST_LANES
    slices = walk.slices(shape[1], unit=unit, lanes=lanes, width=m)
    codes, group = shape[0] * slices.tiles * lanes * unit, values.group_size
    shared = group % (n * lanes) == 0
    symmetric = bool(values.options.get("symmetric"))
    meta = Meta(
        n, place_bits, codes * place_bits // 32, whole, codes * values.bits // 32 if whole else codes,
        int_group.Meta(values.bits, symmetric, group, shape[1] // m * n // group, shared, shape[0]),
    )  # fmt: skip
    nothing = delta.describe(0, shape[1])
    walked = Walked(shape, slices, nothing, meta, decode, planes, 4 if whole else 2)
    return Added(walked) if scheme.options.get("slorb") else walked


def planes(packed: PackedTensor, plan: Walked) -> tuple[torch.Tensor, ...]:
    """Returns words of the places, then values (words or numbers), and scales and zero points of integer ones."""
    meta, values = plan.meta, layouts.parts(packed)["values"]
    kept = values.shape[1]
    places_NJ = bitstream.unpack_rows(packed.planes["sparse_index"], meta.place_bits, kept)
    places = _streams(places_NJ, plan, meta.place_bits)
    if not meta.integers:
        return places, _streams(values.planes["weight"], plan, 0)
    codes_NJ = bitstream.unpack_rows(values.planes["weight"], meta.values.bits, kept)
    return places, _streams(codes_NJ, plan, meta.values.bits), *int_group.statistics(values, meta.values.shared)


def _streams(numbers_NJ: torch.Tensor, plan: Walked, bits: int) -> torch.Tensor:
    """Returns the n streams of what stands at the first, second, … kept weights; codes of `bits`, or numbers for 0."""
    streams = numbers_NJ.view(numbers_NJ.shape[0], -1, plan.meta.kept).unbind(-1)
    return torch.stack(
        [walk.repack(one, bits, plan.slices) if bits else walk.by_slice(one, plan.slices) for one in streams]
    )


@triton.jit
def decode(planes, row, tile, slice: tl.constexpr, S: tl.constexpr, META: tl.constexpr):
    """Returns the weights of one slice, float32 [R, lanes · padded]."""
    column = tl.arange(0, S.padded)[None, None, :]
    weight = tl.zeros([row.shape[0], S.lanes, S.padded], tl.float32)
    for number in tl.static_range(META.kept):
        place = walk.code(planes[0] + number * META.place_stride, row, tile, slice, META.place_bits, S)
        values = planes[1] + number * META.value_stride
        if META.integers:
            if META.values.shared:
                group = (tile * S.unit + slice) * S.lanes * META.kept // META.values.group
            else:
                group = ((walk.number(tile, slice, S) * META.kept + number) // META.values.group)[None, :]
            code = walk.code(values, row, tile, slice, META.values.bits, S)
            value = int_group.dequantise(code, planes[2], planes[3], row, group, META.values)
        else:
            value = walk.plain(values, row, tile, slice, S).to(tl.float32)
        weight = tl.where(place.to(tl.int32)[:, :, None] == column, value[:, :, None], weight)
    return tl.reshape(weight, [row.shape[0], S.lanes * S.padded])


@dataclass(frozen=True, slots=True)
class Added:
    """The plan of a sparse weight and a dense product of low rank; see `plan.Plan`."""

    sparse: Walked

    @property
    def operands(self) -> int:
        """How many tensors `prepare` returns: those of the sparse weight, left [N, s] and right [s, K]."""
        return self.sparse.operands + 2

    def prepare(self, packed: PackedTensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Returns the operands; both factors stay bfloat16, as they are stored."""
        left, right = packed.planes["slorb_left"], packed.planes["slorb_right"]
        return *self.sparse.prepare(packed, dtype), left, right

    def product(self, x_MK: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        """Returns the sum of both products."""
        left, right = (factor.to(x_MK.dtype) for factor in operands[-2:])
        low_MN = torch.nn.functional.linear(torch.nn.functional.linear(x_MK, right), left)
        return self.sparse.product(x_MK, operands[:-2], bias) + low_MN

    def weight(self, operands: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Returns the weight [N, K]."""
        sparse_NK = self.sparse.weight(operands[:-2], torch.float32)
        return (sparse_NK + composing.product(operands[-2], operands[-1])).to(dtype)
