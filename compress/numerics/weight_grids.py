"""The grids that weights are rounded to: integers, FP8, NVFP4, MXFP4, K-quants, each with a fit of its scales.

A grid fits the scales of groups, rounds with them, and packs the result. Scales are held as float32, in the value that
is stored.

Shape letters: N out features, K in features, G groups of g columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch

from compress.errors import MethodError
from compress.format import activations
from compress.format.layouts import int_group, super_block
from compress.format.packed import PackedTensor
from compress.numerics import grid, ranges, super_block_grid
from compress.numerics.float_grid import GROUPS, FloatGrid
from compress.numerics.super_block_grid import SHORT_BITS, SHORT_GROUP, SuperBlockGrid

GRIDS = ("int", "fp8", "fp8_tensor", "nvfp4", "mxfp4", *super_block_grid.BITS)
ACTIVATIONS = {
    "int": ("none", "int8"),
    "fp8": ("none", "fp8", "fp8_static"),
    "fp8_tensor": ("none", "fp8", "fp8_static"),
    "nvfp4": ("none", "nvfp4"),
    "mxfp4": ("none", "mxfp4"),
    **dict.fromkeys(super_block_grid.BITS, ("none",)),
}
"""Grid of the weights -> what the inputs may be rounded to: what engines multiply with each other."""
CALIBRATED = ("fp8_static", "nvfp4")
"""Activations whose scale comes from calibration."""
ONE_SCALE = ("nvfp4", "fp8_tensor")
"""Grids with one scale for all weights, which engines take to be the same in linears that they join."""
OWN_SCALES = (*GROUPS, *super_block_grid.BITS)
"""Grids whose format fixes the dtype of scales."""
_DEFAULT_BITS = 4
_CHUNK = 1 << 18
"""Weights rounded at once: a chunk and its codes stay in the cache of a core."""


class Options(Protocol):
    """Options of a method that concern the grid; a Config is frozen, so they are read only."""

    @property
    def bits(self) -> int: ...
    @property
    def group_size(self) -> int | None: ...
    @property
    def symmetric(self) -> bool: ...
    @property
    def scale_dtype(self) -> str: ...
    @property
    def grid(self) -> str: ...
    @property
    def activations(self) -> str: ...
    @property
    def weight_peak(self) -> float | None: ...


def at_once(config: Options) -> bool:
    """Returns whether the groups of a weight must be fitted together, before its columns are rounded."""
    return config.grid in SHORT_BITS


class Grid(Protocol):
    """What a method rounds weights to."""

    def fit(self, w_NGg: torch.Tensor, weight_Gg: torch.Tensor | None, search: bool) -> ranges.Range:
        """Returns the scales (and zero points) of groups of weights, float32.

        With `search` to the least squared error, in which `weight_Gg` counts each column; else to the extremes.
        """

    def round(
        self, w: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the nearest codes (uint8) and what they are worth; the three have shapes that broadcast."""

    def pack(self, codes_NK: torch.Tensor, scale_NG: torch.Tensor, zero_NG: torch.Tensor | None) -> PackedTensor:
        """Returns the packed tensor of codes and scales that `fit` gave."""


class IntegerGrid:
    """Integer codes with a scale per group: int_group.v1."""

    def __init__(self, bits: int, symmetric: bool, dtype: torch.dtype | None) -> None:
        self._bits, self._symmetric, self._dtype = bits, symmetric, dtype

    def fit(self, w_NGg: torch.Tensor, weight_Gg: torch.Tensor | None, search: bool) -> ranges.Range:
        """See `Grid.fit`."""
        if search:
            fitted = ranges.searched(w_NGg, self._bits, self._symmetric, weight_Gg, self._dtype)
        else:
            fitted = ranges.extremes(w_NGg, self._bits, self._symmetric, self._dtype)
        return ranges.Range(fitted.scale_NG.float(), fitted.zero_NG)

    def round(
        self, w: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Grid.round`."""
        middle: torch.Tensor | float = 2.0 ** (self._bits - 1) if zero is None else zero
        code = (w / scale).add_(middle).round_().clamp_(0, 2**self._bits - 1)
        return code.to(torch.uint8), code.sub_(middle).mul_(scale)

    def pack(self, codes_NK: torch.Tensor, scale_NG: torch.Tensor, zero_NG: torch.Tensor | None) -> PackedTensor:
        """See `Grid.pack`: float16 serves for scales when it holds every one of them."""
        stored_NG = scale_NG.to(self._dtype or torch.float16)
        if self._dtype is None and not torch.equal(stored_NG.float(), scale_NG):
            stored_NG = scale_NG
        return int_group.pack(codes_NK, stored_NG, zero_NG, bits=self._bits)


class SignedGrid(IntegerGrid):
    """Symmetric codes with float16 scales of either sign: int_group.v1, and Q4_0, Q5_0 and Q8_0 of GGUF."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits, symmetric=True, dtype=torch.float16)

    def fit(self, w_NGg: torch.Tensor, weight_Gg: torch.Tensor | None, search: bool) -> ranges.Range:
        """See `Grid.fit`."""
        return ranges.Range(super_block_grid.signed_scale(w_NGg, self._bits, weight_Gg, search, torch.float16), None)


def check_options(config: Options) -> None:
    """Raises MethodError for options that do not go together."""
    if config.grid not in GRIDS:
        raise MethodError(f"grid={config.grid!r}", allowed=", ".join(GRIDS))
    if config.activations not in (allowed := ACTIVATIONS[config.grid]):
        fitting = [name for name, listed in ACTIVATIONS.items() if config.activations in listed]
        raise MethodError(
            f"activations={config.activations!r} with grid={config.grid!r}",
            allowed=", ".join(allowed),
            do=f"Give --grid {fitting[0]}, whose weights engines multiply with them" if fitting else None,
        )
    dtype = grid.scale_dtype(config.scale_dtype)
    if config.grid == "int":
        if not 2 <= config.bits <= 8:
            raise MethodError(f"bits={config.bits}", allowed="2 to 8")
        if config.activations == "int8":
            _check_int8(config)
        return
    if config.grid in SHORT_BITS:
        _check_super_blocks(config)
        return
    bits = 8 if config.grid.startswith("fp8") else 4
    if config.bits not in (_DEFAULT_BITS, bits):
        raise MethodError(f"bits={config.bits} with grid={config.grid!r}", allowed=f"{bits}", do="Leave --bits out")
    if not config.symmetric:
        raise MethodError(f"symmetric=False with grid={config.grid!r}", allowed="True: floats have no zero point")
    group = GROUPS.get(config.grid, grid.WHOLE_ROW)
    if config.group_size not in (None, group):
        raise MethodError(
            f"group_size={config.group_size} with grid={config.grid!r}",
            allowed=f"{group}{', the whole row' if group < 0 else ''}",
            do="Leave --group-size out: the format fixes it",
        )
    if dtype is not None and config.grid in OWN_SCALES:
        raise MethodError(f"scale_dtype={config.scale_dtype!r} with grid={config.grid!r}", do="Leave --scale-dtype out")


def _check_super_blocks(config: Options) -> None:
    fixed = {"bits": _DEFAULT_BITS, "group_size": None, "symmetric": True, "scale_dtype": "auto"}
    for name, default in fixed.items():
        if (value := getattr(config, name)) != default:
            raise MethodError(
                f"{name}={value!r} with grid={config.grid!r}",
                do=f"Leave --{name.replace('_', '-')} out: the format fixes it",
            )


def _check_int8(config: Options) -> None:
    if config.bits != 8 or not config.symmetric or config.group_size not in (None, grid.WHOLE_ROW):
        raise MethodError(
            f"activations='int8' with bits={config.bits}, group_size={config.group_size}, symmetric={config.symmetric}",
            allowed="bits=8, the whole row, symmetric=True",
            do="Give --bits 8 and leave --group-size and --symmetric out",
        )


def check_shape(shape: tuple[int, int], config: Options) -> None:
    """Raises MethodError for a linear of `shape` (N, K) whose width the groups do not divide."""
    width(shape[1], config)


def width(in_features: int, config: Options) -> int:
    """Returns the columns of a group; MethodError where they do not divide `in_features`."""
    if (fixed := GROUPS.get(config.grid)) is not None:
        if in_features % fixed:
            raise MethodError(
                f"in_features={in_features} with grid={config.grid!r}",
                allowed=f"a multiple of {fixed}, the group size of the format",
                do="Leave the layer dense with --skip, or give --grid fp8",
            )
        return fixed
    if config.grid in SHORT_BITS:
        bits = super_block_grid.BITS[config.grid]
        if super_block_grid.fits(in_features):
            return super_block.KINDS[bits].group_size
        return grid.divisor(in_features, SHORT_GROUP)
    if config.grid != "int" or config.activations == "int8":
        return in_features
    return grid.group_width(in_features, config.group_size)


def make(config: Options, w_NK: torch.Tensor) -> Grid:
    """Returns the grid of the options for a weight; one scale for all is made for its peak, or for `weight_peak`."""
    dtype = grid.scale_dtype(config.scale_dtype)
    if config.grid == "int":
        return IntegerGrid(config.bits, config.symmetric, dtype)
    if config.grid in SHORT_BITS:
        if super_block_grid.fits(w_NK.shape[1]):
            return SuperBlockGrid(config.grid)
        return SignedGrid(SHORT_BITS[config.grid])
    peak = w_NK.abs().amax() if config.weight_peak is None else torch.tensor(config.weight_peak, device=w_NK.device)
    return FloatGrid(config.grid, peak.float(), dtype)


def joined_peak(weights: Sequence[torch.Tensor], config: Options) -> float | None:
    """Returns the `weight_peak` of linears that engines join: one scale for all weights must be the same for them.

    None for a grid without such a scale. Each weight is read once.
    """
    if config.weight_peak is not None or config.grid not in ONE_SCALE:
        return config.weight_peak
    return max(float(w_NK.abs().amax()) for w_NK in weights)


def with_activations(packed: PackedTensor, config: Options, peak: float) -> PackedTensor:
    """Returns the tensor with a scheme that rounds its inputs as the options say.

    `peak` is the greatest magnitude of the inputs in calibration; kinds that need none do not read it.
    """
    if config.activations == "none":
        return packed
    scheme = replace(packed.scheme, options={**packed.scheme.options, "activations": config.activations})
    planes = activations.static_plane(config.activations, torch.tensor(peak))
    return PackedTensor(packed.shape, scheme, packed.planes | planes)


def nearest(to: Grid, w_NGg: torch.Tensor, fitted: ranges.Range) -> torch.Tensor:
    """Returns the nearest codes uint8 [N, K] of weights [N, G, g] in the groups of a fit."""
    codes_NGg = torch.empty(w_NGg.shape, dtype=torch.uint8, device=w_NGg.device)
    size = max(1, _CHUNK // math.prod(w_NGg.shape[1:]))
    for start in range(0, len(w_NGg), size):
        rows = slice(start, start + size)
        zero_RG1 = None if fitted.zero_NG is None else fitted.zero_NG[rows, :, None]
        codes_NGg[rows] = to.round(w_NGg[rows], fitted.scale_NG[rows, :, None], zero_RG1)[0]
    return codes_NGg.flatten(1)
