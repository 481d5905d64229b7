"""What a method offers to be chosen among, linear by linear, and what it takes at the least."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from compress.calibration.stats import LayerStats
from compress.errors import BudgetError, CompressError, RecipeError
from compress.format import layouts

if TYPE_CHECKING:
    from compress.methods.protocol import PackMethod

_SAMPLE_ROWS = 16


def offered(method: PackMethod, config: Any) -> list[dict[str, Any]]:
    """Returns option overrides, coarse to fine; RecipeError for a method that has nothing to choose among.

    What `config` together with an override makes impossible is left out.
    """
    wanted = method.candidates(config)
    if not wanted:
        raise RecipeError(
            f"--target-bits with the method {method.name!r}",
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


def least_bits(method: PackMethod, config: Any, shapes: Iterable[tuple[int, int]]) -> float:
    """Returns bits per weight below which no choice of candidates can come, outliers not counted.

    Known without the model: a few rows of plus and minus one, which no method has a reason to spend much on, tell the
    scheme, and the scheme tells the planes of every shape.
    """
    shapes = list(shapes)
    least = [math.inf] * len(shapes)
    for override in offered(method, config):
        sizes = _structure(method, dataclasses.replace(config, **override), shapes)
        least = [min(pair) for pair in zip(least, sizes, strict=True)]
    return sum(least) / sum(math.prod(shape) for shape in shapes)


def _structure(method: PackMethod, config: Any, shapes: list[tuple[int, int]]) -> list[float]:
    """Returns the bits that each shape takes without any outlier; infinite for a shape that `config` cannot treat."""
    treated = {shape for shape in shapes if _treats(method, shape, config)}
    if not treated:
        return [math.inf] * len(shapes)
    width = min(width for _, width in treated)
    generator = torch.Generator().manual_seed(0)
    w_NK = 2.0 * torch.randint(2, (_SAMPLE_ROWS, width), generator=generator) - 1
    scheme = method.solve(w_NK, LayerStats(1, torch.eye(width)) if method.NEEDS else None, config).scheme
    if "outliers" in scheme.options:
        scheme = dataclasses.replace(scheme, options={**scheme.options, "outliers": 0})

    def size(shape: tuple[int, int]) -> float:
        group_size = shape[1] if scheme.group_size == width else scheme.group_size  # the whole row, likely
        specs = layouts.plane_specs(dataclasses.replace(scheme, group_size=group_size), shape)
        return sum(8 * dtype.itemsize * math.prod(plane) for dtype, plane in specs.values())

    sizes = {shape: size(shape) if shape in treated else math.inf for shape in dict.fromkeys(shapes)}
    return [sizes[shape] for shape in shapes]


def _treats(method: PackMethod, shape: tuple[int, int], config: Any) -> bool:
    try:
        method.check(shape, config)
    except CompressError:
        return False
    return True


def too_little(target_bits: float, least: float) -> BudgetError:
    """The error of a budget that nothing fits into."""
    return BudgetError(
        f"target_bits={target_bits} is below the {least:.3f} bits per weight that the coarsest candidates take",
        do="Raise --target-bits, or choose options with less overhead, such as a wider --group-size",
    )
