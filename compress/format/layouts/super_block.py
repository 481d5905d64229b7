"""super_block.v1: integer codes with scales of two levels, integers for groups and float16 for 256 columns.

    weight   int32 [N, ceil(K·b/32)]  bit stream along the row of unsigned codes q
    scale    int8 [N, G]              scales of groups, in units of the super-block's
    minimum  uint8 [N, G]             only if not symmetric
    d        float16 [N, K/256]       unit of the scales
    dmin     float16 [N, K/256]       unit of the minima; only if not symmetric

    w = (d · scale) · (q − 2^(b−1))             symmetric: 3 and 6 bits, groups of 16
    w = (d · scale) · q − dmin · minimum        2 bits, groups of 16; 4 and 5 bits, groups of 32

What the K-quants of GGUF mean, number for number.

Shape letters: N out features, K in features, G groups of g columns, S super-blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from compress.errors import FormatError
from compress.format.layouts import bits as bitstream
from compress.format.layouts import delta
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme

LAYOUT = "super_block.v1"
CONTINUOUS = ("d", "dmin")
COLUMNS = 256
"""Columns of a super-block."""


class Kind(NamedTuple):
    """What a width of codes goes with."""

    group_size: int
    symmetric: bool
    lowest: int
    highest: int
    """Least and greatest scale; the minima go from 0 to the greatest scale."""


KINDS = {
    2: Kind(16, False, 0, 15), 3: Kind(16, True, -32, 31), 4: Kind(32, False, 0, 63), 5: Kind(32, False, 0, 63),
    6: Kind(16, True, -128, 127),
}  # fmt: skip
"""Bits of a code -> what they go with."""


def pack(
    codes_NK: torch.Tensor,
    scale_NG: torch.Tensor,
    minimum_NG: torch.Tensor | None,
    d_NS: torch.Tensor,
    dmin_NS: torch.Tensor | None,
    *,
    bits: int,
) -> PackedTensor:
    """Returns the packed tensor of unsigned codes, integer scales and minima, and their units, float16."""
    planes = {"weight": bitstream.pack_rows(codes_NK, bits), "scale": scale_NG.to(torch.int8)}
    if minimum_NG is not None:
        planes["minimum"] = minimum_NG.to(torch.uint8)
    planes["d"] = d_NS.to(torch.float16)
    if dmin_NS is not None:
        planes["dmin"] = dmin_NS.to(torch.float16)
    planes = {name: plane.contiguous() for name, plane in planes.items()}
    options: dict[str, object] = {"symmetric": minimum_NG is None}
    rows, columns = codes_NK.shape
    scheme = Scheme(layout=LAYOUT, bits=bits, group_size=columns // scale_NG.shape[1], options=options)
    return PackedTensor((rows, columns), scheme, planes)


def plane_specs(scheme: Scheme, shape: tuple[int, int]) -> delta.Specs:
    """Returns dtype and shape of every plane."""
    (rows, columns), kind = shape, KINDS.get(scheme.bits)
    symmetric = scheme.options.get("symmetric") is True
    if kind is None or (scheme.group_size, symmetric) != kind[:2] or columns % COLUMNS or scheme.outliers:
        raise FormatError(
            f"super_block.v1 with bits={scheme.bits}, group_size={scheme.group_size} and symmetric={symmetric} for "
            f"shape {shape}",
            allowed="3 or 6 bits, symmetric, groups of 16; 2 bits, groups of 16; 4 or 5 bits, groups of 32; rows of a "
            "multiple of 256 columns",
        )
    groups, blocks = (rows, columns // scheme.group_size), (rows, columns // COLUMNS)
    specs: delta.Specs = {
        "weight": (torch.int32, (rows, bitstream.words_for(columns, scheme.bits))),
        "scale": (torch.int8, groups),
    }
    if symmetric:
        return specs | {"d": (torch.float16, blocks)}
    return specs | {
        "minimum": (torch.uint8, groups), "d": (torch.float16, blocks), "dmin": (torch.float16, blocks),
    }  # fmt: skip


class Expanded(NamedTuple):
    """The integer planes of a tensor, decoded."""

    codes: torch.Tensor
    """Codes counted from their zero, float32 [N, S, G/S, g]."""
    scale: torch.Tensor
    """float32 [N, S, G/S]."""
    minimum: torch.Tensor | None
    """float32 [N, S, G/S]; None where the scheme is symmetric."""


def expand(packed: PackedTensor) -> Expanded:
    """Returns codes, scales and minima."""
    (rows, columns), scheme, planes = packed.shape, packed.scheme, packed.planes
    per_block = COLUMNS // scheme.group_size
    codes = bitstream.unpack_rows(planes["weight"], scheme.bits, columns).float()
    if "minimum" not in planes:
        codes = codes - (1 << (scheme.bits - 1))
    by_block = {name: planes[name].float().view(rows, -1, per_block) for name in ("scale", "minimum") if name in planes}
    return Expanded(codes.view(rows, -1, per_block, scheme.group_size), by_block["scale"], by_block.get("minimum"))


def assemble(expanded: Expanded, planes: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the weight [N, K] as float32, differentiable in the planes of CONTINUOUS."""
    weight = expanded.codes * (planes["d"].float()[..., None] * expanded.scale)[..., None]
    if expanded.minimum is not None:
        weight = weight - (planes["dmin"].float()[..., None] * expanded.minimum)[..., None]
    return weight.flatten(1)


def unpack(packed: PackedTensor) -> torch.Tensor:
    """Returns the weight [N, K] as float32."""
    return assemble(expand(packed), packed.planes)


def rows_of(packed: PackedTensor, rows: slice) -> PackedTensor:
    """Returns some rows as a tensor of their own."""
    planes = {name: plane[rows] for name, plane in packed.planes.items()}
    return PackedTensor((len(planes["weight"]), packed.shape[1]), packed.scheme, planes)


def validate(packed: PackedTensor, layer: str | None = None) -> None:
    """Raises FormatError for values that cannot come from `pack`."""
    kind = KINDS[packed.scheme.bits]
    for name in ("scale", "minimum"):
        if (plane := packed.planes.get(name)) is None:
            continue
        least, most = int(plane.min()), int(plane.max())
        if not kind.lowest <= least <= most <= kind.highest:
            raise FormatError(
                f"{name} goes from {least} to {most}", allowed=f"{kind.lowest} to {kind.highest}", layer=layer
            )
    for name in CONTINUOUS:
        if name in packed.planes and not packed.planes[name].isfinite().all():
            raise FormatError(f"{name} has a value that is not finite", layer=layer)
