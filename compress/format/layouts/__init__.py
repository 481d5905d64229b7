"""One file per on-disk layout. A layout module is the executable specification of its bytes.

A layout module has:
    LAYOUT                  the id, e.g. ``int_group.v1``; the file name is the part before the dot
    plane_specs(scheme, shape) -> dict[name, (dtype, shape)]   what a well-formed tensor of this scheme holds
    unpack(packed) -> float32 [N, K]                           the meaning of the planes
    validate(packed)        raises FormatError for plane *values* that would index out of bounds
"""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

from compress.errors import FormatError
from compress.format.manifest import known_layouts
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme


def layout_module(layout: str) -> ModuleType:
    """Returns the module that specifies `layout`; an id this package does not know is a FormatError."""
    if layout not in known_layouts():
        raise FormatError(
            f"unknown layout {layout!r}",
            allowed=", ".join(known_layouts()),
            do="Update the package to read this checkpoint: pip install --upgrade compress-llm",
        )
    return importlib.import_module(f"{__name__}.{layout.split('.')[0]}")


def plane_specs(scheme: Scheme, shape: tuple[int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Returns dtype and shape of every plane of a tensor of `shape` under `scheme`, in storage order."""
    specs: dict[str, tuple[torch.dtype, tuple[int, ...]]] = layout_module(scheme.layout).plane_specs(scheme, shape)
    return specs


def unpack(packed: PackedTensor) -> torch.Tensor:
    """Returns the weight [N, K] as float32: the definition of what a packed tensor means."""
    weight_NK: torch.Tensor = layout_module(packed.scheme.layout).unpack(packed)
    return weight_NK


def check(packed: PackedTensor, layer: str | None = None) -> None:
    """Raises FormatError unless every plane is there with the right dtype, shape and in-range values."""
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
