"""One file per on-disk layout. A layout module is the executable specification of its bytes.

A layout module has:
    LAYOUT                  the id, e.g. ``int_group.v1``; the file name is the part before the dot
    plane_specs(scheme, shape) -> dict[name, (dtype, shape)]   the planes that a well-formed tensor holds
    CONTINUOUS              names of the planes that hold real numbers; a tensor may lack some of them
    expand(packed) -> Expanded                                 the integer planes, decoded once
    assemble(expanded, planes) -> float32 [N, K]               the real arithmetic: differentiable in the planes of
                            CONTINUOUS, which may come as float32 for any stored dtype; reads no others
    unpack(packed) -> float32 [N, K]                           the meaning of the planes: the two after one another
    validate(packed)        raises FormatError for plane *values* that would index out of bounds

A layout that may store a token embedding (`ROWS`) also has
    unpack_rows(packed, rows) -> float32 [R, K]                some rows of `unpack`, without decoding the others

A composite layout is made of parts, packed tensors with schemes of their own that stand in its options. It also has:
    PARTS                   names of its parts
    parts(packed)           the parts by name
    repack(packed, parts)   the tensor with its parts stored anew
`dense.v1` is a layout of parts only: it names itself by PART_LAYOUT and never stands in a manifest by itself.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from compress.errors import FormatError
from compress.format import activations
from compress.format.manifest import known_layouts
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme

_PART_ONLY = "dense.v1"
ROWS = ("int_group.v1",)
"""Layouts that a token embedding may have."""


def layout_module(layout: str) -> ModuleType:
    """Returns the module that specifies `layout`; an id this package does not know is a FormatError."""
    if layout not in (*known_layouts(), _PART_ONLY):
        raise FormatError(
            f"unknown layout {layout!r}",
            allowed=", ".join(known_layouts()),
            do="Update the package to read this checkpoint: pip install --upgrade compress-llm",
        )
    return importlib.import_module(f"{__name__}.{layout.split('.')[0]}")


def plane_specs(scheme: Scheme, shape: tuple[int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Returns dtype and shape of every plane of a tensor of `shape` under `scheme`, in storage order."""
    specs: dict[str, tuple[torch.dtype, tuple[int, ...]]] = layout_module(scheme.layout).plane_specs(scheme, shape)
    return specs | activations.plane_specs(scheme, shape)


def size_bytes(scheme: Scheme, shape: tuple[int, int]) -> int:
    """Returns the bytes of all planes of a tensor of `shape` under `scheme`."""
    return sum(math.prod(plane) * dtype.itemsize for dtype, plane in plane_specs(scheme, shape).values())


def unpack(packed: PackedTensor) -> torch.Tensor:
    """Returns the decoded weight [N, K] in float32. This function defines the value of a packed tensor."""
    weight_NK: torch.Tensor = layout_module(packed.scheme.layout).unpack(packed)
    return weight_NK


def unpack_rows(packed: PackedTensor, rows_R: torch.Tensor) -> torch.Tensor:
    """Returns the rows `rows_R` (int64) of `unpack(packed)`, float32 [R, K]; the layout must have `unpack_rows`."""
    weight_RK: torch.Tensor = layout_module(packed.scheme.layout).unpack_rows(packed, rows_R)
    return weight_RK


def is_composite(layout: str) -> bool:
    """Returns whether tensors of `layout` are made of parts."""
    return hasattr(layout_module(layout), "PARTS")


def parts(packed: PackedTensor) -> dict[str, PackedTensor]:
    """Returns the parts of a composite tensor by name, which share its planes; {} for a plain layout."""
    if not is_composite(packed.scheme.layout):
        return {}
    found: dict[str, PackedTensor] = layout_module(packed.scheme.layout).parts(packed)
    return found


def repack(packed: PackedTensor, parts: Mapping[str, PackedTensor]) -> PackedTensor:
    """Returns a composite tensor with its parts stored anew, each in any plain layout; all of them must be given."""
    made: PackedTensor = layout_module(packed.scheme.layout).repack(packed, parts)
    return made


@dataclass(frozen=True, slots=True)
class Expanded:
    """A packed tensor whose integer planes are decoded."""

    layout: str
    parts: Any
    """What `expand` of the layout's module returns."""


def expand(packed: PackedTensor) -> Expanded:
    """Returns the decoded integer planes: all that `assemble` needs beside the continuous planes."""
    return Expanded(packed.scheme.layout, layout_module(packed.scheme.layout).expand(packed))


def assemble(expanded: Expanded, planes: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the weight [N, K] as float32, differentiable in the continuous planes, in any floating dtype.

    With the planes as they are stored it is `unpack`, bit for bit.
    """
    weight_NK: torch.Tensor = layout_module(expanded.layout).assemble(expanded.parts, planes)
    return weight_NK


def continuous(packed: PackedTensor) -> dict[str, torch.Tensor]:
    """Returns the planes that hold real numbers, by name: what may be fitted without touching a code."""
    names: tuple[str, ...] = layout_module(packed.scheme.layout).CONTINUOUS
    planes = {name: packed.planes[name] for name in names if name in packed.planes}
    # `weight` of a composite tensor is real where its part is dense, and a stream of codes elsewhere
    return {name: plane for name, plane in planes.items() if plane.is_floating_point()}


def check(packed: PackedTensor, layer: str | None = None) -> None:
    """Raises FormatError unless every plane is there with the right dtype, shape and in-range values."""
    if packed.scheme.layout == _PART_ONLY:
        raise FormatError(f"{_PART_ONLY} is a layout of parts only", allowed=", ".join(known_layouts()), layer=layer)
    specs = plane_specs(packed.scheme, packed.shape)
    if missing := specs.keys() - packed.planes.keys():
        raise FormatError(f"planes missing: {', '.join(sorted(missing))}", layer=layer)
    if extra := packed.planes.keys() - specs.keys():
        raise FormatError(f"planes that the layout {packed.scheme.layout} does not have: {sorted(extra)}", layer=layer)
    for name, (dtype, shape) in specs.items():
        plane = packed.planes[name]
        if plane.dtype != dtype or tuple(plane.shape) != shape:
            raise FormatError(
                f"plane {name!r} is {plane.dtype} {tuple(plane.shape)}", allowed=f"{dtype} {shape}", layer=layer
            )
    layout_module(packed.scheme.layout).validate(packed, layer)
    activations.validate(packed, layer)
