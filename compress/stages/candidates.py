"""What a method offers to be chosen among, linear by linear, and what it takes at the least."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from compress.calibration.stats import LayerStats
from compress.errors import CompressError, RecipeError
from compress.format import layouts

if TYPE_CHECKING:
    from types import ModuleType

BITS = (2, 3, 4, 5, 6, 8)
"""Offered by a method that has `bits` and no candidates of its own."""
_SAMPLE_ROWS = 16


def offered(method: ModuleType, config: Any) -> list[dict[str, Any]]:
    """Returns option overrides, coarse to fine; RecipeError for a method that has nothing to choose among.

    What `config` together with an override makes impossible is left out.
    """
    if hasattr(method, "candidates"):
        wanted = list(method.candidates(config))
    elif any(field.name == "bits" for field in dataclasses.fields(config)):
        wanted = [{"bits": bits} for bits in BITS]
    else:
        raise RecipeError(
            f"--target-bits with the method {method.__name__.rpartition('.')[2]!r}",
            allowed="methods with the option bits, or with candidates of their own",
        )
    possible = [override for override in wanted if _accepted(config, override)]
    if not possible:
        raise RecipeError("--target-bits: none of the method's candidates goes with the other options")
    return possible


def _accepted(config: Any, override: dict[str, Any]) -> bool:
    try:
        dataclasses.replace(config, **override)
    except CompressError:
        return False
    return True


def least_bits(method: ModuleType, config: Any, shapes: Iterable[tuple[int, int]]) -> float:
    """Returns bits per weight below which no choice of candidates can come, outliers not counted.

    Known without the model: some rows of noise tell the scheme, and the scheme tells the planes of every shape.
    """
    shapes = list(shapes)
    sizes = [
        _structure(method, dataclasses.replace(config, **override), shapes) for override in offered(method, config)
    ]
    weights = sum(math.prod(shape) for shape in shapes)
    return sum(min(size[place] for size in sizes) for place in range(len(shapes))) / weights


def _structure(method: ModuleType, config: Any, shapes: list[tuple[int, int]]) -> list[float]:
    """Returns the bits that each shape takes without any outlier; infinite for a shape that `config` cannot treat."""
    generator = torch.Generator().manual_seed(0)
    by_shape: dict[tuple[int, int], float] = {}
    for rows, width in dict.fromkeys(shapes):
        try:
            method.check((rows, width), config)
        except CompressError:
            by_shape[rows, width] = math.inf
            continue
        w_NK = torch.randn(min(rows, _SAMPLE_ROWS), width, generator=generator)
        stats = LayerStats(1, torch.eye(width)) if method.NEEDS else None
        scheme = method.solve(w_NK, stats, config).scheme
        if "outliers" in scheme.options:
            scheme = dataclasses.replace(scheme, options={**scheme.options, "outliers": 0})
        specs = layouts.plane_specs(scheme, (rows, width))
        by_shape[rows, width] = sum(8 * dtype.itemsize * math.prod(shape) for dtype, shape in specs.values())
    return [by_shape[shape] for shape in shapes]


def too_little(target_bits: float, least: float) -> RecipeError:
    """The error of a budget that nothing fits into."""
    return RecipeError(
        f"target_bits={target_bits} is below the {least:.3f} bits per weight that the coarsest candidates take",
        do="Raise --target-bits, or choose options with less overhead, such as a wider --group-size",
    )
