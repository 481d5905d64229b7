"""low_rank.v1: a weight as the product of two thin ones, W = L · R, each stored as a part (SVD-LLM, arXiv 2403.07378).

    planes of the part `left` [N, r] under their own names, those of the part `right` [r, K] with the prefix `right_`

The options are `rank` r and the schemes of both parts; the scheme's `bits` repeats that of the left part, its
`group_size` is K. The product is summed in float64 and rounded to float32 once. r < N·K / (N + K), so that there is
less to store than without the factors; and the plane `weight` never has the shape of the dense weight.

Shape letters: N out features, K in features, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from compress.errors import FormatError
from compress.format import layouts
from compress.format.layouts import composing
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme

LAYOUT = "low_rank.v1"
PARTS = ("left", "right")
CONTINUOUS = (*composing.REALS, *(f"right_{name}" for name in composing.REALS))
_RIGHT = "right_"


def pack(left: PackedTensor, right: PackedTensor) -> PackedTensor:
    """Returns the packed tensor of L [N, r] times R [r, K]; the parts share their planes with it."""
    assert left.shape[1] == right.shape[0], f"factors of shapes {left.shape} and {right.shape}"
    shape = (left.shape[0], right.shape[1])
    options = {"rank": left.shape[1], "left": left.scheme.to_dict(), "right": right.scheme.to_dict()}
    scheme = Scheme(layout=LAYOUT, bits=left.scheme.bits, group_size=shape[1], options=options)
    plane_specs(scheme, shape)
    planes = left.planes | {_RIGHT + name: plane for name, plane in right.planes.items()}
    return PackedTensor(shape, scheme, planes)


def break_even(shape: tuple[int, int]) -> int:
    """Returns the largest rank with fewer numbers than the weight of `shape` has; 0 for none."""
    return (shape[0] * shape[1] - 1) // (shape[0] + shape[1])


def plane_specs(scheme: Scheme, shape: tuple[int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Returns dtype and shape of every plane, those of the left part first."""
    rank = composing.count(scheme, "rank", 1)
    left, right = (composing.part_scheme(scheme, part) for part in PARTS)
    if rank > break_even(shape):
        raise FormatError(
            f"low_rank.v1 with rank {rank} for shape {shape}",
            allowed=f"1 to {break_even(shape)} (a higher rank saves nothing)",
        )
    if scheme.bits != left.bits or scheme.group_size != shape[1] or scheme.outliers:
        raise FormatError(f"low_rank.v1 cannot have {scheme.to_dict()} for shape {shape}")
    right_specs = layouts.plane_specs(right, (rank, shape[1]))
    return layouts.plane_specs(left, (shape[0], rank)) | {_RIGHT + name: spec for name, spec in right_specs.items()}


def parts(packed: PackedTensor) -> dict[str, PackedTensor]:
    """Returns both factors, `left` [N, r] and `right` [r, K]."""
    rank = packed.scheme.options["rank"]
    left, right = (composing.part_scheme(packed.scheme, part) for part in PARTS)
    shapes = (packed.shape[0], rank), (rank, packed.shape[1])
    return {
        "left": PackedTensor(
            shapes[0], left, composing.select(packed.planes, layouts.plane_specs(left, shapes[0]))
        ),
        "right": PackedTensor(
            shapes[1], right, composing.select(packed.planes, layouts.plane_specs(right, shapes[1]), _RIGHT)
        ),
    }  # fmt: skip


def repack(packed: PackedTensor, parts: Mapping[str, PackedTensor]) -> PackedTensor:
    """Returns the tensor with its factors stored anew."""
    return pack(parts["left"], parts["right"])


class Expanded(NamedTuple):
    """Both factors with their integer planes decoded."""

    left: layouts.Expanded
    right: layouts.Expanded


def expand(packed: PackedTensor) -> Expanded:
    """Returns the decoded factors."""
    found = parts(packed)
    return Expanded(layouts.expand(found["left"]), layouts.expand(found["right"]))


def assemble(expanded: Expanded, planes: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the weight [N, K] as float32, differentiable in the continuous planes of both factors."""
    left_NR = layouts.assemble(expanded.left, planes)
    return composing.product(left_NR, layouts.assemble(expanded.right, composing.bare(planes, _RIGHT)))


def unpack(packed: PackedTensor) -> torch.Tensor:
    """Returns the weight [N, K] as float32."""
    return assemble(expand(packed), packed.planes)


def validate(packed: PackedTensor, layer: str | None = None) -> None:
    """Raises FormatError for values that cannot come from `pack`."""
    for name, part in parts(packed).items():
        composing.check_part(part, name, layer)
