"""float_group.v1: codes of small floating-point numbers with one scale per group; w = value(code) · scale.

    weight        int32 [N, ceil(K·b/32)]  bit stream along the row: E2M1 codes (b = 4) or E4M3 codes (b = 8)
    scale         [N, G]                   float16, bfloat16 or float32; uint8 codes of E4M3 or of E8M0
                  [1, 1]                   one scale for all, if the option `per_tensor` is set
    global_scale  float32 [1]              only with scales in E4M3: w = value(code) · (scale / global_scale)

FP8 has E4M3 codes and a scale per row or for all; NVFP4 E2M1 codes, groups of 16, E4M3 scales and a global scale; MXFP4
E2M1 codes, groups of 32 and E8M0 scales. The code streams are the bytes that compressed-tensors stores.

Shape letters: N out features, K in features, G groups of g.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from compress.errors import FormatError
from compress.format import minifloats
from compress.format.layouts import bits as bitstream
from compress.format.layouts import delta, int_group
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme

LAYOUT = "float_group.v1"
CONTINUOUS = ("scale", "global_scale")
ELEMENTS = {"e2m1": 4, "e4m3": 8}
"""Number format of the codes -> bits of a code."""
_SCALES = {**int_group.SCALE_DTYPES, "e4m3": torch.uint8, "e8m0": torch.uint8}
_NAN = {"e4m3": (0x7F, 0xFF), "e8m0": (0xFF,)}
"""Codes that stand for no number."""


def pack(
    codes_NK: torch.Tensor,
    scale_NG: torch.Tensor,
    element: str,
    *,
    scale_dtype: str | None = None,
    global_scale: torch.Tensor | None = None,
) -> PackedTensor:
    """Returns the packed tensor.

    Args:
        codes_NK: codes of `element`, uint8.
        scale_NG: scales in the dtype they are stored in; [1, 1] for one scale for all.
        element: `e2m1` or `e4m3`.
        scale_dtype: `e4m3` or `e8m0` where the scales are codes of these formats.
        global_scale: float32 [1], with scales in E4M3.
    """
    (rows, columns), bits = codes_NK.shape, ELEMENTS[element]
    planes = {"weight": bitstream.pack_rows(codes_NK, bits), "scale": scale_NG.contiguous()}
    if global_scale is not None:
        planes["global_scale"] = global_scale.float().reshape(1)
    options: dict[str, object] = {
        "element": element,
        "scale_dtype": scale_dtype or str(scale_NG.dtype).removeprefix("torch."),
        "per_tensor": scale_NG.shape == (1, 1) and rows > 1,
        "global_scale": global_scale is not None,
    }
    scheme = Scheme(layout=LAYOUT, bits=bits, group_size=columns // scale_NG.shape[1], options=options)
    return PackedTensor((rows, columns), scheme, planes)


def plane_specs(scheme: Scheme, shape: tuple[int, int]) -> delta.Specs:
    """Returns dtype and shape of every plane."""
    (rows, columns), options = shape, scheme.options
    element, scale_dtype = options.get("element"), options.get("scale_dtype")
    if ELEMENTS.get(str(element)) != scheme.bits:
        raise FormatError(f"float_group.v1 with {element!r} in {scheme.bits} bits", allowed="e2m1 in 4, e4m3 in 8 bits")
    if scale_dtype not in _SCALES:
        raise FormatError(f"scale_dtype {scale_dtype!r}", allowed=", ".join(_SCALES))
    if scheme.group_size < 1 or columns % scheme.group_size:
        raise FormatError(f"float_group.v1 with group_size={scheme.group_size} for shape {shape}")
    per_tensor, has_global = options.get("per_tensor") is True, options.get("global_scale") is True
    if per_tensor and scheme.group_size != columns:
        raise FormatError("float_group.v1 with one scale for all and groups", allowed=f"group_size {columns}")
    if has_global and scale_dtype != "e4m3":
        raise FormatError(f"float_group.v1 with a global scale and scales in {scale_dtype}", allowed="e4m3")
    if scheme.outliers:
        raise FormatError("float_group.v1 with outliers", allowed="none")
    scale_shape = (1, 1) if per_tensor else (rows, columns // scheme.group_size)
    specs: delta.Specs = {
        "weight": (torch.int32, (rows, bitstream.words_for(columns, scheme.bits))),
        "scale": (_SCALES[scale_dtype], scale_shape),
    }
    return specs | ({"global_scale": (torch.float32, (1,))} if has_global else {})


class Expanded(NamedTuple):
    """The codes of a tensor, decoded."""

    values: torch.Tensor
    """The numbers that the codes stand for, float32 [N, G, g]."""
    scale: torch.Tensor | None
    """Scales that are codes themselves, float32 [N, G]; None where the plane is real."""


def expand(packed: PackedTensor) -> Expanded:
    """Returns the numbers of the codes."""
    (rows, columns), scheme, planes = packed.shape, packed.scheme, packed.planes
    codes_NK = bitstream.unpack_rows(planes["weight"], scheme.bits, columns)
    read = minifloats.e2m1_values if scheme.options["element"] == "e2m1" else minifloats.e4m3_values
    values_NGg = read(codes_NK).view(rows, -1, scheme.group_size)
    kind = scheme.options["scale_dtype"]
    if kind in ("e4m3", "e8m0"):
        decode = minifloats.e4m3_values if kind == "e4m3" else minifloats.e8m0_values
        return Expanded(values_NGg, decode(planes["scale"]))
    return Expanded(values_NGg, None)


def assemble(expanded: Expanded, planes: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the weight [N, K] as float32, differentiable in the real planes of CONTINUOUS."""
    scale_NG = planes["scale"].float() if expanded.scale is None else expanded.scale
    if "global_scale" in planes:
        scale_NG = scale_NG / planes["global_scale"].float()
    return (expanded.values * scale_NG[..., None]).view(expanded.values.shape[0], -1)


def unpack(packed: PackedTensor) -> torch.Tensor:
    """Returns the weight [N, K] as float32."""
    return assemble(expand(packed), packed.planes)


def rows_of(packed: PackedTensor, rows: slice) -> PackedTensor:
    """Returns some rows as a tensor of their own; a scale for all stays theirs."""
    planes = dict(packed.planes)
    planes["weight"] = planes["weight"][rows]
    if not packed.scheme.options["per_tensor"]:
        planes["scale"] = planes["scale"][rows]
    return PackedTensor((len(planes["weight"]), packed.shape[1]), packed.scheme, planes)


def validate(packed: PackedTensor, layer: str | None = None) -> None:
    """Raises FormatError for values that cannot come from `pack`."""
    planes, options = packed.planes, packed.scheme.options
    scale, columns = planes["scale"], packed.shape[1]
    if scale.is_floating_point():
        if not scale.isfinite().all():
            raise FormatError("scale has a value that is not finite", layer=layer)
    elif any((scale == code).any() for code in _NAN[options["scale_dtype"]]):
        raise FormatError(f"scale has a code that is no {options['scale_dtype']} number", layer=layer)
    if options["element"] == "e4m3":
        codes_NK = bitstream.unpack_rows(planes["weight"], 8, columns)
        if any((codes_NK == code).any() for code in _NAN["e4m3"]):
            raise FormatError("weight has a code that is no e4m3 number", layer=layer)
    if "global_scale" in planes and not 0 < float(planes["global_scale"]) < float("inf"):
        raise FormatError(f"global_scale is {float(planes['global_scale'])}", allowed="above 0 and finite", layer=layer)
