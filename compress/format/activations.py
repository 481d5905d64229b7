"""Rounds the inputs of a linear as an engine does that multiplies in few bits; the scheme's `activations` says how.

    int8        symmetric integers, one scale per token: peak / 127.5
    fp8         E4M3, one scale per token: peak / 448
    fp8_static  E4M3, one scale for all: plane `input_scale`, float32 [1]
    nvfp4       E2M1 in groups of 16 with an E4M3 scale each, over the plane `input_global_scale`, float32 [1]
    mxfp4       E2M1 in groups of 32 with a power of two each

The arithmetic is float32, whatever the dtype of the inputs, and bit for bit that of compressed-tensors (0.20): a scale
is the greatest magnitude over the greatest code, a value is divided by it, rounded with ties to even, and multiplied.

Shape letters: K in features, G groups of g.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from compress.errors import FormatError
from compress.format import minifloats
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme

KINDS = ("int8", "fp8", "fp8_static", "nvfp4", "mxfp4")
GROUPS = {"nvfp4": 16, "mxfp4": 32}
"""Kind -> input features that share a scale."""
PLANES = {"fp8_static": "input_scale", "nvfp4": "input_global_scale"}
"""Kind -> the plane that calibration made for it."""
_INT8_RANGE = 127.5
"""Half of the 255 steps between −128 and 127: compressed-tensors' divisor. Its positive extreme is cut to 127."""


def kind_of(scheme: Scheme) -> str | None:
    """Returns how the inputs are rounded; None where they are not."""
    kind = scheme.options.get("activations")
    if kind is not None and kind not in KINDS:
        raise FormatError(f"activations {kind!r}", allowed=", ".join(KINDS))
    return kind


def plane_specs(scheme: Scheme, shape: tuple[int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Returns dtype and shape of the planes that belong to the rounding of inputs."""
    kind = kind_of(scheme)
    if kind == "int8" and not _has_integer_rows(scheme, shape):
        raise FormatError(
            f"activations 'int8' for {scheme.layout}", allowed="int_group.v1, symmetric, one scale a row, no outliers"
        )
    if kind in GROUPS and shape[1] % GROUPS[kind]:
        raise FormatError(f"activations {kind!r} for {shape[1]} inputs", allowed=f"a multiple of {GROUPS[kind]}")
    return {PLANES[kind]: (torch.float32, (1,))} if kind in PLANES else {}


def validate(packed: PackedTensor, layer: str | None = None) -> None:
    """Raises FormatError for a scale of inputs that is not above zero and finite."""
    if (name := PLANES.get(kind_of(packed.scheme) or "")) is not None:
        value = float(packed.planes[name])
        if not 0 < value < float("inf"):
            raise FormatError(f"{name} is {value}", allowed="a finite number above 0", layer=layer)


def static_plane(kind: str, peak: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns the plane of a kind for inputs whose greatest magnitude in calibration was `peak`; {} where none is."""
    peak = peak.float().reshape(1)
    if kind == "fp8_static":
        return {PLANES[kind]: (peak / minifloats.E4M3_MAX).clamp_min(torch.finfo(torch.float32).tiny)}
    return {PLANES[kind]: minifloats.nvfp4_global_scale(peak)} if kind == "nvfp4" else {}


def int8_codes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the codes −128 … 127 [..., K] and the scales [..., 1] of every token, both float32."""
    x = x.float()
    scale = _nonzero(x.abs().amax(-1, keepdim=True) / _INT8_RANGE)
    return (x / scale).round_().clamp_(-128, 127), scale


def rounded(x: torch.Tensor, kind: str, planes: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns `x` [..., K] with every value replaced by the one its code stands for, in the dtype of `x`."""
    if not x.numel():
        return x
    if kind == "int8":
        codes, scale = int8_codes(x)
        return (codes * scale).to(x.dtype)
    if kind in GROUPS:
        x_Gg = x.float().reshape(*x.shape[:-1], -1, GROUPS[kind])
        peak_G1 = x_Gg.abs().amax(-1, keepdim=True)
        if kind == "nvfp4":
            global_scale = planes[PLANES[kind]]
            scale_G1 = minifloats.nvfp4_scale(peak_G1, global_scale) / global_scale
        else:
            scale_G1 = minifloats.mxfp4_scale(peak_G1)
        return (minifloats.round_e2m1(x_Gg / scale_G1) * scale_G1).flatten(-2).to(x.dtype)
    scale = planes[PLANES[kind]] if kind in PLANES else _nonzero(_peak(x) / minifloats.E4M3_MAX)
    return (minifloats.round_e4m3(x.float() / scale) * scale).to(x.dtype)


def _has_integer_rows(scheme: Scheme, shape: tuple[int, int]) -> bool:
    plain = scheme.layout == "int_group.v1" and scheme.options.get("symmetric") is True and not scheme.outliers
    return plain and scheme.group_size == shape[1]


def _peak(x: torch.Tensor) -> torch.Tensor:
    return x.float().abs().amax(-1, keepdim=True)


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    """Replaces the zero scale of a token of zeros, so that it can be divided by."""
    return torch.where(scale == 0, torch.finfo(torch.float32).eps, scale)
