"""Decodes sparse_nm.v1 in Triton: the kept weights of a group are placed in the group's m columns.

The first kept weights of all groups are one stream, the second ones another, and so on; so are their places. A lane
holds whole groups, and a slice is one column of one group in every lane. Values are dense.v1 or int_group.v1 without a
sparse part. An added product (slorb) runs as two dense ones.

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
_LANES = 32
_MOST_STEPS = 256
"""Columns of a lane times n: the kernels are written out for each; 480 took Triton 3.9 more than five minutes."""


class Meta(NamedTuple):
    """Constants of the decoding; those of the values have the names that `int_group.dequantise` knows."""

    kept: int
    """n."""
    among: int
    """m."""
    place_bits: int
    place_stride: int
    """Words of one stream of places."""
    value_stride: int
    """Words, or numbers where the values are dense, of one stream of values."""
    integers: bool
    bits: int
    symmetric: bool
    group: int
    groups: int
    shared: bool
    """False: the lanes of a slice are far apart in a row."""
    rows: int
    """N."""


def reject(scheme: Scheme, shape: tuple[int, int]) -> str | None:
    """Returns why such a tensor cannot run, or None."""
    values = composing.part_scheme(scheme, "values")
    if scheme.options["m"] > _WIDEST:
        return f"groups of {scheme.options['m']}, up to {_WIDEST} run"
    if values.layout not in (dense.PART_LAYOUT, integers.LAYOUT):
        return f"values of {values.layout} in n:m, {dense.PART_LAYOUT} and {integers.LAYOUT} run"
    if values.outliers:
        return "values with a sparse part in n:m"
    steps = _unit(scheme) * scheme.options["m"] * scheme.options["n"]
    if steps > _MOST_STEPS:
        return (
            f"{scheme.options['n']}:{scheme.options['m']} with {values.bits}-bit values would take minutes to compile"
        )
    return None


def _unit(scheme: Scheme) -> int:
    """Returns how many groups a lane holds, so that places and values fill whole words."""
    values = composing.part_scheme(scheme, "values")
    return max(walk.period(_place_bits(scheme)), walk.period(values.bits) if values.layout == integers.LAYOUT else 1)


def _place_bits(scheme: Scheme) -> int:
    """Returns the bits of a place as the kernels have it: a power of two, which fills a word in few codes."""
    return triton.next_power_of_2(sparse_nm.index_bits(scheme.options["m"]))  # type: ignore[no-any-return]


def plan(scheme: Scheme, shape: tuple[int, int]) -> Walked | Added:
    """Returns how a tensor of this scheme and shape runs."""
    n, m = (scheme.options[name] for name in ("n", "m"))
    values = composing.part_scheme(scheme, "values")
    whole = values.layout == integers.LAYOUT
    place_bits, unit = _place_bits(scheme), _unit(scheme)
    lanes = _LANES if unit * _LANES * m <= shape[1] else walk.FEWEST_LANES
    slices = walk.slices(shape[1], unit=unit * m, lanes=lanes, nested=True)
    codes = shape[0] * slices.tiles * lanes * unit
    meta = Meta(
        n, m, place_bits, codes * place_bits // 32, codes * values.bits // 32 if whole else codes, whole,
        values.bits, bool(values.options.get("symmetric")), values.group_size, shape[1] // m * n // values.group_size,
        False, shape[0],
    )  # fmt: skip
    walked = Walked(shape, slices, delta.describe(0, shape[1]), meta, decode, planes, 4 if whole else 2)
    return Added(walked) if scheme.options.get("slorb") else walked


def planes(packed: PackedTensor, plan: Walked) -> tuple[torch.Tensor, ...]:
    """Returns words of the places, then values (words or numbers), and scales and zero points of integer ones."""
    meta, values = plan.meta, layouts.parts(packed)["values"]
    kept = values.shape[1]
    stored_bits = sparse_nm.index_bits(meta.among)
    places = _streams(bitstream.unpack_rows(packed.planes["sparse_index"], stored_bits, kept), plan, meta.place_bits)
    if not meta.integers:
        return places, _streams(values.planes["weight"], plan, 0)
    codes_NJ = bitstream.unpack_rows(values.planes["weight"], meta.bits, kept)
    return places, _streams(codes_NJ, plan, meta.bits), *int_group.statistics(values, shared=False)


def _streams(numbers_NJ: torch.Tensor, plan: Walked, bits: int) -> torch.Tensor:
    """Returns n streams: the entries of the first, second, … kept weights; codes of `bits`, or numbers if it is 0."""
    groups = plan.slices._replace(unit=plan.slices.unit // plan.meta.among)
    streams = numbers_NJ.view(numbers_NJ.shape[0], -1, plan.meta.kept).unbind(-1)
    return torch.stack([walk.repack(one, bits, groups) if bits else walk.by_slice(one, groups) for one in streams])


@triton.jit
def decode(planes, row, tile, slice: tl.constexpr, S: tl.constexpr, META: tl.constexpr):
    """Returns the weights of one slice, float32 [R, lanes]: one column of one group in every lane."""
    unit: tl.constexpr = S.unit // META.among
    own: tl.constexpr = slice // META.among
    column: tl.constexpr = slice % META.among
    weight = tl.zeros([row.shape[0], S.lanes], tl.float32)
    # the other columns of the group ask for the same places and values: equal expressions are computed once
    for number in tl.static_range(META.kept):
        place = walk.code(planes[0] + number * META.place_stride, row, tile, own, META.place_bits, unit, S)
        values = planes[1] + number * META.value_stride
        if META.integers:
            first = (tile * S.lanes + tl.arange(0, S.lanes)) * (unit * META.kept)
            if META.group % (unit * META.kept):
                group = (first + own * META.kept + number) // META.group
            else:  # a lane has one scale, fetched once
                group = first // META.group
            code = walk.code(values, row, tile, own, META.bits, unit, S)
            value = int_group.dequantise(code, planes[2], planes[3], row, group[None, :], META)
        else:
            value = walk.plain(values, row, tile, own, unit, S).to(tl.float32)
        weight = tl.where(place == column, value, weight)
    return weight


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
