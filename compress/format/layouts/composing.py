"""Code shared by composite layouts: schemes of parts from the options, planes of parts by a prefix, exact products.

A part is a PackedTensor with a scheme of its own, which stands in the options of the whole. Parts are not composite.

Shape letters: N out features, K in features, R summed dimension of a product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from compress.errors import FormatError
from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme

REALS = (
    "weight",
    "scale",
    "global_scale",
    "codebooks",
    "scale_step",
    "scale_min",
    "zero_step",
    "zero_min",
    "delta_val",
)
"""Planes that are real numbers in some layout of a part; `weight` is where the part is dense."""

_SLICE_ELEMENTS = 1 << 22


def part_scheme(scheme: Scheme, part: str) -> Scheme:
    """Returns the scheme of a part, from the options of the whole."""
    data = scheme.options.get(part)
    if not isinstance(data, Mapping):
        raise FormatError(f"{scheme.layout} has no scheme of its part {part!r}")
    found = Scheme.from_dict(data)
    if layouts.is_composite(found.layout):
        raise FormatError(f"the part {part!r} of {scheme.layout} has the layout {found.layout}", allowed="a plain one")
    if "activations" in found.options:
        raise FormatError(f"the part {part!r} of {scheme.layout} rounds its inputs", allowed="whole linears that do")
    return found


def count(scheme: Scheme, name: str, least: int) -> int:
    """Returns an integer option of at least `least`."""
    value = scheme.options.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise FormatError(f"{scheme.layout} with {name}={value!r}", allowed=f"{least} or more")
    return value


def select(planes: Mapping[str, torch.Tensor], names: Iterable[str], prefix: str = "") -> dict[str, torch.Tensor]:
    """Returns the planes of a part under its own names."""
    return {name: planes[prefix + name] for name in names}


def bare(planes: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Returns the planes that bear `prefix`, without it."""
    return {name.removeprefix(prefix): plane for name, plane in planes.items() if name.startswith(prefix)}


def product(left_NR: torch.Tensor, right_RK: torch.Tensor) -> torch.Tensor:
    """Returns float32 [N, K]: the product summed in float64 and rounded once, so that no order of summation shows.

    Differentiable; a few rows at a time, since a float64 copy of the whole would be twice its size.
    """
    rows = max(1, _SLICE_ELEMENTS // max(1, right_RK.shape[1]))
    right_RK = right_RK.double()
    parts = [(left_NR[start : start + rows].double() @ right_RK).float() for start in range(0, left_NR.shape[0], rows)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def check_part(part: PackedTensor, name: str, layer: str | None) -> None:
    """Raises FormatError unless the values of a part can be decoded."""
    try:
        layouts.layout_module(part.scheme.layout).validate(part, layer)
    except FormatError as error:
        error.given = f"part {name!r}: {error.given}"
        raise
