"""Makes packed weights with random planes: to time a kernel, the values of a weight do not matter.

Shape letters: N out features, K in features, G groups, R runs of rows, Z entries of the sparse part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.errors import CompressError, unknown
from compress.format import layouts
from compress.format.layouts import additive, dense, int_group, low_rank, sparse_nm, spqr
from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme

SIZE = 0.02
"""Approximate standard deviation of the weights: that of a language model, so that whole models stay finite."""
OUTLIERS = 0.01
"""Share of the weights in the sparse part of layouts that have one."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A way of storing a weight that is measured."""

    name: str
    summary: str
    scheme: Callable[[tuple[int, int]], Scheme]
    """Returns the scheme for a shape (N, K)."""


def _integers(bits: int, group: int, share: float = 0.0) -> Callable[[tuple[int, int]], Scheme]:
    def scheme(shape: tuple[int, int]) -> Scheme:
        options = {"symmetric": False, "scale_dtype": "float16", "outliers": shape[0] * round(share * shape[1])}
        return Scheme(layout=int_group.LAYOUT, bits=bits, group_size=group, options=options)

    return scheme


def _rounded(shape: tuple[int, int]) -> Scheme:
    options = {"symmetric": True, "scale_dtype": "float16", "outliers": 0, "activations": "int8"}
    return Scheme(layout=int_group.LAYOUT, bits=8, group_size=shape[1], options=options)


def _spqr(shape: tuple[int, int]) -> Scheme:
    options = {"stats_bits": 3, "stats_group": 16, "exponent": 0, "permuted": True,
               "outliers": shape[0] * round(OUTLIERS * shape[1])}  # fmt: skip
    return Scheme(layout=spqr.LAYOUT, bits=3, group_size=16, options=options)


def _additive(books: int, bits: int) -> Callable[[tuple[int, int]], Scheme]:
    options = {"codebooks": books, "scale_dtype": "float16", "outliers": 0}
    return lambda shape: Scheme(layout=additive.LAYOUT, bits=bits, group_size=8, options=options)


def _dense(width: int) -> Scheme:
    return Scheme(layout=dense.PART_LAYOUT, bits=16, group_size=width, options={"dtype": "bfloat16"})


def _kept(packed: bool) -> Callable[[tuple[int, int]], Scheme]:
    def scheme(shape: tuple[int, int]) -> Scheme:
        kept = (shape[0], shape[1] // 2)
        values = _integers(4, 128)(kept) if packed else _dense(kept[1])
        options = {"n": 2, "m": 4, "slorb": 0, "values": values.to_dict()}
        return Scheme(layout=sparse_nm.LAYOUT, bits=values.bits, group_size=shape[1], options=options)

    return scheme


def _low_rank(shape: tuple[int, int]) -> Scheme:
    rank = min(shape) // 4
    options = {"rank": rank, "left": _dense(rank).to_dict(), "right": _dense(shape[1]).to_dict()}
    return Scheme(layout=low_rank.LAYOUT, bits=16, group_size=shape[1], options=options)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("int4-g128", "4-bit integers, groups of 128", _integers(4, 128)),
        Layout("int3-g64", "3-bit integers, groups of 64", _integers(3, 64)),
        Layout("int2-g64", "2-bit integers, groups of 64", _integers(2, 64)),
        Layout("int8-g128", "8-bit integers, groups of 128", _integers(8, 128)),
        Layout("w8a8", "8-bit integers, whole rows, inputs rounded to 8 bits", _rounded),
        Layout("int4-g128-delta", "int4-g128 with 1 % sparse outliers (EasyQuant)",
               _integers(4, 128, OUTLIERS)),
        Layout("spqr-3bit", "SpQR, 3 bits, groups of 16, 1 % outliers", _spqr),
        Layout("aqlm-2x8", "two codebooks of 256 vectors of 8", _additive(2, 8)),
        Layout("aqlm-1x16", "one codebook of 65,536 vectors of 8", _additive(1, 16)),
        Layout("sparse-2:4", "two of four weights kept, bfloat16", _kept(False)),
        Layout("sparse-2:4-int4", "two of four weights kept, 4-bit integers, groups of 128", _kept(True)),
        Layout("low-rank", "two bfloat16 factors, the rank a quarter of the smaller side", _low_rank),
    )
}  # fmt: skip


def layout(name: str) -> Layout:
    """Returns the layout of that name; CompressError, with the known names, for an unknown one."""
    if name not in LAYOUTS:
        raise CompressError(unknown("layout", name, LAYOUTS), allowed=", ".join(LAYOUTS))
    return LAYOUTS[name]


def random_weight(name: str, shape: tuple[int, int], seed: int = 0) -> PackedTensor:
    """Returns a valid packed weight [N, K] of that layout; CompressError for a shape that does not fit it."""
    return fill(layout(name).scheme(shape), shape, seed)


def fill(scheme: Scheme, shape: tuple[int, int], seed: int = 0) -> PackedTensor:
    """Returns a packed weight of any scheme of LAYOUTS with random planes, the same for the same seed."""
    if scheme.layout == low_rank.LAYOUT:
        return _factors(scheme, shape, seed)
    generator = torch.Generator().manual_seed(seed)
    planes: dict[str, torch.Tensor] = {}
    if scheme.layout == sparse_nm.LAYOUT:
        kept = (shape[0], shape[1] // scheme.options["m"] * scheme.options["n"])
        planes = fill(Scheme.from_dict(scheme.options["values"]), kept, seed).planes
    for plane, (dtype, size) in layouts.plane_specs(scheme, shape).items():
        if plane not in planes:
            planes[plane] = _plane(plane, scheme, dtype, size, shape, generator)
    return PackedTensor(shape, scheme, planes)


def _factors(scheme: Scheme, shape: tuple[int, int], seed: int) -> PackedTensor:
    rank = scheme.options["rank"]
    left = fill(Scheme.from_dict(scheme.options["left"]), (shape[0], rank), seed)
    right = fill(Scheme.from_dict(scheme.options["right"]), (rank, shape[1]), seed + 1)
    # so that a sum of `rank` products of two such numbers has the size of one of them
    left.planes["weight"].mul_(1 / (SIZE * rank**0.5))
    return low_rank.pack(left, right)


def _plane(
    name: str, scheme: Scheme, dtype: torch.dtype, size: tuple[int, ...], shape: tuple[int, int],
    generator: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    if name == "delta_rowptr":
        return torch.arange(shape[0] + 1, dtype=dtype) * (scheme.outliers // shape[0])
    if name == "delta_col":
        return _columns(shape, scheme.outliers // shape[0], generator).to(dtype)
    if name == "perm":
        return torch.randperm(shape[1], generator=generator).to(dtype)
    if name == "sparse_index":
        return _positions(size, shape[1] // 2, generator)
    if dtype == torch.int32:
        return torch.randint(-(1 << 31), 1 << 31, size, generator=generator, dtype=torch.int32)
    if name == "scale" and scheme.layout != additive.LAYOUT:
        return _spread(size, SIZE / (0.41 * 2**scheme.bits), generator).to(
            dtype
        )  # code minus zero point has a deviation of 0.41·2^b
    if name in spqr.SECOND_LEVEL:
        return _spread(size, _SECOND_LEVEL[name], generator).to(dtype)
    if name == "scale":
        return _spread(size, SIZE, generator).to(dtype)
    return (torch.randn(size, generator=generator) * (1.0 if name == "codebooks" else SIZE)).to(dtype)


_SECOND_LEVEL = {"scale_min": 0.004, "scale_step": 0.0005, "zero_min": 1.0, "zero_step": 0.7}


def _spread(size: tuple[int, ...], around: float, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(size, generator=generator) * 0.5 + 0.75) * around


def _columns(shape: tuple[int, int], per_row: int, generator: torch.Generator) -> torch.Tensor:
    """Returns int64 [Z] with ascending columns in every row: one at random in each of `per_row` equal parts."""
    edges = torch.arange(per_row + 1) * shape[1] // max(1, per_row)
    spread = torch.rand(shape[0], per_row, generator=generator)
    return (edges[:-1] + (spread * edges.diff()).long()).flatten()


def _positions(size: tuple[int, ...], width: int, generator: torch.Generator) -> torch.Tensor:
    """Returns positions of kept weights as `sparse_nm` stores them, int32 [N, words]: two of every four, ascending."""
    pairs = torch.tensor([first | second << 2 for first in range(4) for second in range(first + 1, 4)])
    nibbles = pairs[torch.randint(0, len(pairs), (size[0], width // 2), generator=generator)]
    return bitstream.pack_rows(nibbles, 4)
