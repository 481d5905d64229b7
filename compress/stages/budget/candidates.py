"""Settings that mixed precision may choose from for each linear, and the smallest size they allow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from compress.calibration.stats import LayerStats
from compress.errors import BudgetError, CompressError, RecipeError
from compress.format import layouts
from compress.numerics import grid

if TYPE_CHECKING:
    from compress.format.scheme import Scheme
    from compress.methods.protocol import PackMethod

_SAMPLE_ROWS, _SAMPLE_WIDTH = 16, 256


def settings(method: PackMethod, config: Any, bits: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Returns the method's candidates, option overrides from coarse to fine, that the other options allow.

    Args:
        method: a method.
        config: its options.
        bits: widths that candidates may have; None: all.

    Raises:
        RecipeError: the method has no candidates, or the other options allow none of them.
    """
    listed = method.candidates(config)
    if not listed:
        raise RecipeError(
            f"--target-bits with the method {method.name!r}",
            allowed="a method with the option bits, or with candidates of its own",
        )
    wide = [each for each in listed if bits is None or each.get("bits", bits[0]) in bits]
    possible = [override for override in wide if _accepted(config, override)]
    if not possible:
        raise RecipeError(
            f"--target-bits with the method {method.name!r}: its other options rule out all of its candidates",
            do="Leave the other options at their defaults",
        )
    return possible


def _accepted(config: Any, override: dict[str, Any]) -> bool:
    try:
        dataclasses.replace(config, **override)
    except CompressError:
        return False
    return True


def least_bits(
    method: PackMethod, config: Any, shapes: Iterable[tuple[int, int]], bits: Sequence[int] | None = None
) -> float:
    """Returns the stored bits per weight with the smallest candidate everywhere, outliers not counted; see `settings`.

    Known without reading the model: a few rows of plus and minus one, on which no method spends more than it must, give
    the scheme, and the scheme gives the sizes of the planes for every shape.
    """
    shapes = list(shapes)
    least = [math.inf] * len(shapes)
    for override in settings(method, config, bits):
        sizes = _structure(method, dataclasses.replace(config, **override), shapes)
        least = [min(pair) for pair in zip(least, sizes, strict=True)]
    return sum(least) / sum(math.prod(shape) for shape in shapes)


def _structure(method: PackMethod, config: Any, shapes: list[tuple[int, int]]) -> list[float]:
    """Returns the bits that each shape takes without any outlier; infinite for a shape that `config` cannot treat."""
    plain_NK = 2.0 * torch.randint(2, (_SAMPLE_ROWS, _SAMPLE_WIDTH), generator=torch.Generator().manual_seed(0)) - 1
    sizes = []
    for scheme, shape in zip(_schemes(method, config, shapes, plain_NK), shapes, strict=True):
        if scheme is None:
            sizes.append(math.inf)
            continue
        if "outliers" in scheme.options:
            scheme = dataclasses.replace(scheme, options={**scheme.options, "outliers": 0})
        specs = layouts.plane_specs(scheme, shape)
        sizes.append(sum(8 * dtype.itemsize * math.prod(plane) for dtype, plane in specs.values()))
    return sizes


def schemes(method: PackMethod, config: Any, shapes: list[tuple[int, int]]) -> list[Scheme]:
    """Returns the scheme that linears of these shapes (N, K), which the method can treat, get with the options.

    Known from a few random rows with weights far from the rest: a method with outliers finds some.
    """
    generator = torch.Generator().manual_seed(0)
    w_NK = torch.randn(_SAMPLE_ROWS, _SAMPLE_WIDTH, generator=generator)
    w_NK[:, :: _SAMPLE_WIDTH // 4] *= 50
    found = _schemes(method, config, shapes, w_NK)
    assert None not in found, "the plan checks the shapes before"
    return [scheme for scheme in found if scheme is not None]


def _schemes(method: PackMethod, config: Any, shapes: list[tuple[int, int]], w_NK: torch.Tensor) -> list[Scheme | None]:
    """Returns the scheme of each shape, from that of a sample with the right group size; None where it is refused."""
    treated = {shape for shape in shapes if _treats(method, shape, config)}
    if not treated:
        return [None] * len(shapes)
    # at this width a group of the usual size is not the whole row
    usual = (_SAMPLE_ROWS, _SAMPLE_WIDTH)
    width = _SAMPLE_WIDTH if _treats(method, usual, config) else min(width for _, width in treated)
    w_NK = w_NK.repeat(1, -(-width // _SAMPLE_WIDTH))[:, :width]
    scheme = method.solve(w_NK, LayerStats(1, torch.eye(width)) if method.needs(config) else None, config).scheme
    chosen_by_width = "group_size" in _fields(config) and config.group_size is None

    def of(shape: tuple[int, int]) -> Scheme:
        group_size = scheme.group_size
        if group_size == width:  # a group as wide as the sample is taken for the whole row
            group_size = shape[1]
        elif chosen_by_width and group_size == grid.group_width(width, None):
            group_size = grid.group_width(shape[1], None)
        return dataclasses.replace(scheme, group_size=group_size)

    made = {shape: of(shape) for shape in treated}
    return [made.get(shape) for shape in shapes]


def _fields(config: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}


def _treats(method: PackMethod, shape: tuple[int, int], config: Any) -> bool:
    try:
        method.check(shape, config)
    except CompressError:
        return False
    return True


def target_too_low(target_bits: float, least: float) -> BudgetError:
    """Returns the error for a target below `least`, the bits per weight of the smallest candidates."""
    return BudgetError(
        f"target_bits={target_bits} is below the {least:.3f} bits per weight that the coarsest candidates take",
        do="Raise --target-bits, or choose options with less overhead, such as a wider --group-size",
    )
