"""int_group.v1: integer codes with one scale per group and an optional zero point; w = (q − z) · scale.

The planes are those of `pack-quantized` of compressed-tensors ≥ 0.18, so an export renames and copies bytes:

    weight      int32 [N, ceil(K·b/32)]   bit stream along the row of unsigned codes q + 2^(b−1)
    scale       [N, G]                    float16, bfloat16 or float32 (`scale_dtype` of the scheme)
    zero_point  int32 [ceil(N·b/32), G]   bit stream along dimension 0, same convention; only if not symmetric
    delta_*                               optional sparse part; values of `delta_dtype`, float16 if not given

Shape letters: N out features, K in features, G groups.
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

LAYOUT = "int_group.v1"
CONTINUOUS = ("scale", "delta_val")
_DELTA_DTYPES = {"float16": torch.float16, "float32": torch.float32}
SCALE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""Name in a scheme -> dtype of the scales."""


def pack(
    codes_NK: torch.Tensor,
    scale_NG: torch.Tensor,
    zero_NG: torch.Tensor | None,
    *,
    bits: int,
    outlier_NK: torch.Tensor | None = None,
    delta_NK: torch.Tensor | None = None,
    delta_dtype: torch.dtype = torch.float16,
) -> PackedTensor:
    """Returns the packed tensor for unsigned codes 0 ≤ q < 2^b and unsigned zero points of the same range.

    Args:
        codes_NK: integer codes.
        scale_NG: scales in the dtype they are stored in.
        zero_NG: integer zero points; None means the middle code 2^(b−1) everywhere (symmetric).
        outlier_NK, delta_NK: where and what to add after dequantisation, exact in `delta_dtype`.
        delta_dtype: float16, or float32 for values out of its range.
    """
    planes = {"weight": bitstream.pack_rows(codes_NK, bits), "scale": scale_NG.contiguous()}
    if zero_NG is not None:
        planes["zero_point"] = bitstream.pack_rows(zero_NG.T, bits).T.contiguous()
    if outlier_NK is not None and delta_NK is not None:
        planes |= delta.pack(outlier_NK, delta_NK, delta_dtype)
    options: dict[str, object] = {
        "symmetric": zero_NG is None,
        "scale_dtype": str(scale_NG.dtype).removeprefix("torch."),
        "outliers": planes["delta_val"].numel() if "delta_val" in planes else 0,
    }
    if "delta_val" in planes and delta_dtype != torch.float16:
        options["delta_dtype"] = str(delta_dtype).removeprefix("torch.")
    shape = (codes_NK.shape[0], codes_NK.shape[1])
    group_size = shape[1] // scale_NG.shape[1]
    return PackedTensor(shape, Scheme(layout=LAYOUT, bits=bits, group_size=group_size, options=options), planes)


def plane_specs(scheme: Scheme, shape: tuple[int, int]) -> delta.Specs:
    """Returns dtype and shape of every plane."""
    out_features, in_features = shape
    if not 1 <= scheme.bits <= 8 or scheme.group_size < 1 or in_features % scheme.group_size:
        raise FormatError(f"int_group.v1 with bits={scheme.bits} and group_size={scheme.group_size} for shape {shape}")
    if scheme.options.get("scale_dtype") not in SCALE_DTYPES:
        raise FormatError(f"scale_dtype {scheme.options.get('scale_dtype')!r}", allowed=", ".join(SCALE_DTYPES))
    delta_dtype = scheme.options.get("delta_dtype", "float16")
    if delta_dtype not in _DELTA_DTYPES:
        raise FormatError(f"delta_dtype {delta_dtype!r}", allowed=", ".join(_DELTA_DTYPES))
    groups = in_features // scheme.group_size
    specs: delta.Specs = {
        "weight": (torch.int32, (out_features, bitstream.words_for(in_features, scheme.bits))),
        "scale": (SCALE_DTYPES[scheme.options["scale_dtype"]], (out_features, groups)),
    }
    if not scheme.options.get("symmetric"):
        specs["zero_point"] = (torch.int32, (bitstream.words_for(out_features, scheme.bits), groups))
    return specs | delta.specs(scheme.outliers, shape, _DELTA_DTYPES[delta_dtype])


class Expanded(NamedTuple):
    """The integer planes of a tensor, decoded."""

    codes: torch.Tensor
    """uint8 [N, G, group_size]."""
    zero: torch.Tensor | float
    """Zero points, uint8 [N, G, 1]; the middle code where the scheme is symmetric."""
    places: delta.Places | None


def expand(packed: PackedTensor) -> Expanded:
    """Returns the codes, zero points and places of outliers."""
    (out_features, in_features), bits, planes = packed.shape, packed.scheme.bits, packed.planes
    zero_NG1: torch.Tensor | float = 2.0 ** (bits - 1)
    if "zero_point" in planes:
        zero_NG1 = bitstream.unpack_rows(planes["zero_point"].T, bits, out_features).T[..., None]
    codes_NK = bitstream.unpack_rows(planes["weight"], bits, in_features)
    return Expanded(codes_NK.view(out_features, -1, packed.scheme.group_size), zero_NG1, delta.expand(planes))


def assemble(expanded: Expanded, planes: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the weight [N, K] as float32, differentiable in the planes of CONTINUOUS."""
    codes_NGg, zero_NG1, places = expanded
    # uint8 codes would wrap below zero
    weight_NGg = (codes_NGg.float() - zero_NG1) * planes["scale"].float()[..., None]
    return delta.add(weight_NGg.view(codes_NGg.shape[0], -1), places, planes)


def unpack(packed: PackedTensor) -> torch.Tensor:
    """Returns the weight [N, K] as float32."""
    return assemble(expand(packed), packed.planes)


def unpack_rows(packed: PackedTensor, rows_R: torch.Tensor) -> torch.Tensor:
    """Returns the rows `rows_R` (int64, any order, repeats allowed) of `unpack(packed)`, float32 [R, K].

    No other row is decoded. The tensor must have no delta part.
    """
    assert not packed.scheme.outliers, "rows of a tensor with a delta part cannot be decoded alone"
    (_, in_features), bits, planes = packed.shape, packed.scheme.bits, packed.planes
    zero_RG1: torch.Tensor | float = 2.0 ** (bits - 1)
    if "zero_point" in planes:
        zero_RG1 = bitstream.unpack_places(planes["zero_point"], bits, rows_R)[..., None]
    codes_RK = bitstream.unpack_rows(planes["weight"][rows_R], bits, in_features)
    codes_RGg = codes_RK.view(len(rows_R), -1, packed.scheme.group_size)
    return assemble(Expanded(codes_RGg, zero_RG1, None), {"scale": planes["scale"][rows_R]})


def validate(packed: PackedTensor, layer: str | None = None) -> None:
    """Raises FormatError for values that cannot come from `pack`."""
    if not packed.planes["scale"].isfinite().all():
        raise FormatError("scale has a value that is not finite", layer=layer)
    delta.validate(packed.planes, packed.shape, layer)
