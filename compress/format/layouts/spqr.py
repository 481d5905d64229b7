"""spqr.v1: low-bit codes, bilevel statistics, a column order and a sparse delta part (SpQR, arXiv 2306.03078 §4).

    weight       int32 [N, ceil(K·b/32)]          bit stream along the row of codes, columns in stored order
    scale_code   int32 [ceil(N·G·stats_bits/32)]  flat bit stream of [N, G] codes
    zero_code    int32 [ceil(N·G·stats_bits/32)]  the same for the zeros
    scale_step, scale_min, zero_step, zero_min    float16 [ceil(N/stats_group), G]
    perm         uint16|int32 [K]                 input feature that stands at each stored column; only if `permuted`
    delta_*                                       optional sparse part, columns are input features

Meaning, all in float32, with e = 2^exponent: scale = (scale_min + scale_step · code) · e for the row's run of
`stats_group` rows, zero likewise without e; dense value = scale · (q − zero); entries of the delta part times e
are added. The exponent keeps float16 in its normal range at every magnitude of the weights.

Shape letters: N out features, K in features, G groups, R runs of rows.
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

LAYOUT = "spqr.v1"
SECOND_LEVEL = ("scale_step", "scale_min", "zero_step", "zero_min")
CONTINUOUS = (*SECOND_LEVEL, "delta_val")


def pack(
    codes_NK: torch.Tensor,
    scale_code_NG: torch.Tensor,
    zero_code_NG: torch.Tensor,
    second_level: dict[str, torch.Tensor],
    *,
    bits: int,
    stats_bits: int,
    stats_group: int,
    exponent: int,
    perm_K: torch.Tensor | None,
    outlier_NK: torch.Tensor,
    delta_NK: torch.Tensor,
) -> PackedTensor:
    """Returns the packed tensor.

    Args:
        codes_NK: codes 0 ≤ q < 2^b in stored column order.
        scale_code_NG, zero_code_NG: codes 0 ≤ c < 2^stats_bits of the first-level statistics.
        second_level: the four float16 [R, G] planes of SECOND_LEVEL.
        perm_K: input feature at each stored column, or None for the natural order.
        outlier_NK, delta_NK: sparse part in *input feature* order, in units of 2^exponent, exact in float16.
    """
    out_features, in_features = codes_NK.shape
    groups = scale_code_NG.shape[1]
    planes = {
        "weight": bitstream.pack_rows(codes_NK, bits),
        "scale_code": bitstream.pack_flat(scale_code_NG, stats_bits),
        "zero_code": bitstream.pack_flat(zero_code_NG, stats_bits),
        **{name: second_level[name].contiguous() for name in SECOND_LEVEL},
    }
    if perm_K is not None:
        planes["perm"] = perm_K.to(delta.column_dtype(in_features))
    planes |= delta.pack(outlier_NK, delta_NK)
    options = {
        "stats_bits": stats_bits,
        "stats_group": stats_group,
        "exponent": exponent,
        "permuted": perm_K is not None,
        "outliers": planes["delta_val"].numel() if "delta_val" in planes else 0,
    }
    scheme = Scheme(layout=LAYOUT, bits=bits, group_size=in_features // groups, options=options)
    return PackedTensor((out_features, in_features), scheme, planes)


def plane_specs(scheme: Scheme, shape: tuple[int, int]) -> delta.Specs:
    """Returns dtype and shape of every plane."""
    (out_features, in_features), options = shape, scheme.options
    fields = [options.get(name) for name in ("stats_bits", "stats_group", "exponent")]
    if not all(isinstance(value, int) for value in fields):
        raise FormatError(f"spqr.v1 lacks stats_bits, stats_group or exponent: {dict(options)}")
    stats_bits, stats_group, exponent = (int(options[name]) for name in ("stats_bits", "stats_group", "exponent"))
    ranges = 1 <= scheme.bits <= 8 and 1 <= stats_bits <= 8 and stats_group >= 1 and abs(exponent) <= 120
    if not ranges or scheme.group_size < 1 or in_features % scheme.group_size:
        raise FormatError(f"spqr.v1 cannot have {scheme.to_dict()} for shape {shape}")
    groups, runs = in_features // scheme.group_size, -(-out_features // stats_group)
    stats_words = bitstream.words_for(out_features * groups, stats_bits)
    specs: delta.Specs = {
        "weight": (torch.int32, (out_features, bitstream.words_for(in_features, scheme.bits))),
        "scale_code": (torch.int32, (stats_words,)),
        "zero_code": (torch.int32, (stats_words,)),
        **{name: (torch.float16, (runs, groups)) for name in SECOND_LEVEL},
    }
    if options.get("permuted"):
        specs["perm"] = (delta.column_dtype(in_features), (in_features,))
    return specs | delta.specs(scheme.outliers, shape)


class Expanded(NamedTuple):
    """The integer planes of a tensor, decoded."""

    codes: torch.Tensor
    """uint8 [N, G, group_size], columns in stored order."""
    statistics: dict[str, torch.Tensor]
    """`scale` and `zero`: codes of the first-level statistics, uint8 [N, G]."""
    runs: torch.Tensor
    """int64 [N]: run of `stats_group` rows that each row belongs to."""
    order: torch.Tensor | None
    """int64 [K]: stored column at which each input feature stands; None for the natural order."""
    exponent: int
    places: delta.Places | None


def expand(packed: PackedTensor) -> Expanded:
    """Returns the codes of weights and statistics, the column order and the places of outliers."""
    (out_features, in_features), scheme, planes = packed.shape, packed.scheme, packed.planes
    groups, stats_bits = in_features // scheme.group_size, scheme.options["stats_bits"]
    codes_NK = bitstream.unpack_rows(planes["weight"], scheme.bits, in_features)
    return Expanded(
        codes_NK.view(out_features, groups, -1),
        {
            name: bitstream.unpack_flat(planes[f"{name}_code"], stats_bits, (out_features, groups))
            for name in ("scale", "zero")
        },
        torch.arange(out_features, device=codes_NK.device) // scheme.options["stats_group"],
        planes["perm"].to(torch.int64).argsort() if "perm" in planes else None,
        int(scheme.options["exponent"]),
        delta.expand(planes),
    )


def assemble(expanded: Expanded, planes: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the weight [N, K] as float32, columns in input feature order; differentiable in CONTINUOUS."""

    def statistic(name: str) -> torch.Tensor:
        lowest_NG, step_NG = (planes[f"{name}_{part}"].float()[expanded.runs] for part in ("min", "step"))
        return lowest_NG + step_NG * expanded.statistics[name].float()

    scale_NG1, zero_NG1 = statistic("scale")[..., None] * 2.0**expanded.exponent, statistic("zero")[..., None]
    weight_NK = (scale_NG1 * (expanded.codes.float() - zero_NG1)).view(expanded.runs.numel(), -1)
    if expanded.order is not None:
        weight_NK = weight_NK.index_select(1, expanded.order)
    return delta.add(weight_NK, expanded.places, planes, expanded.exponent)


def unpack(packed: PackedTensor) -> torch.Tensor:
    """Returns the weight [N, K] as float32, columns in input feature order."""
    return assemble(expand(packed), packed.planes)


def validate(packed: PackedTensor, layer: str | None = None) -> None:
    """Raises FormatError for values that cannot come from `pack`."""
    for name in SECOND_LEVEL:
        if not packed.planes[name].isfinite().all():
            raise FormatError(f"{name} has a value that is not finite", layer=layer)
    if "perm" in packed.planes:
        order = packed.planes["perm"].to(torch.int64).sort().values
        if not torch.equal(order, torch.arange(packed.shape[1], device=order.device)):
            raise FormatError(f"perm is not a permutation of 0..{packed.shape[1] - 1}", layer=layer)
    delta.validate(packed.planes, packed.shape, layer)
