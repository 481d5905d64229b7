"""sparse_nm.v1: n of every m consecutive inputs of a row are kept; the kept weights are a part with its own scheme.

    planes of the part `values` [N, J] under their own names, J = K·n/m: the kept weights, from left to right
    sparse_index  int32 [N, ceil(J·b/32)]   bit stream along the row: place of each kept weight in its group of m,
                                            b = ceil(log2 m) bits, rising within the group
    slorb_left    bfloat16 [N, s]           only if `slorb` s of the options is above 0: a dense product that is added,
    slorb_right   bfloat16 [s, K]           summed in float64 and rounded to float32 once (SLoRB, arXiv 2407.20584 §3.3)

The options are `n`, `m`, `slorb` and the scheme of `values`; the scheme's `bits` repeats that of the values, its
`group_size` is K. bfloat16 values at 2:4 take 8 bits of values and 1 of index per weight.

Shape letters: N out features, K in features, J kept inputs of a row, s rank of the added product.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from compress.errors import FormatError
from compress.format import layouts
from compress.format.layouts import bits as bitstream
from compress.format.layouts import composing
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme

LAYOUT = "sparse_nm.v1"
PARTS = ("values",)
CONTINUOUS = (*composing.REALS, "slorb_left", "slorb_right")
WIDEST = 256
"""Largest m: a place within a group is a code of at most 8 bits."""


def pack(
    values: PackedTensor,
    mask_NK: torch.Tensor,
    *,
    n: int,
    m: int,
    slorb: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> PackedTensor:
    """Returns the packed tensor.

    Args:
        values: the kept weights [N, J], see `kept`; its planes are shared.
        mask_NK: true where a weight is kept, n times in every group.
        slorb: left [N, s] and right [s, K] of a product that is added, stored as bfloat16.
    """
    shape = (mask_NK.shape[0], mask_NK.shape[1])
    places_NJ = kept(torch.arange(shape[1], device=mask_NK.device).expand(shape) % m, mask_NK, n=n, m=m)
    options = {"n": n, "m": m, "slorb": slorb[0].shape[1] if slorb else 0, "values": values.scheme.to_dict()}
    scheme = Scheme(layout=LAYOUT, bits=values.scheme.bits, group_size=shape[1], options=options)
    planes = values.planes | {"sparse_index": bitstream.pack_rows(places_NJ, index_bits(m))}
    if slorb is not None:
        planes |= {
            name: factor.to(torch.bfloat16).contiguous()
            for name, factor in zip(("slorb_left", "slorb_right"), slorb, strict=True)
        }
    plane_specs(scheme, shape)
    return PackedTensor(shape, scheme, planes)


def kept(w_NK: torch.Tensor, mask_NK: torch.Tensor, *, n: int, m: int) -> torch.Tensor:
    """Returns the kept weights of `w_NK`, [N, J] in its dtype; a group without exactly n kept is a FormatError."""
    rows, width = mask_NK.shape
    if width % m or not (mask_NK.view(rows, width // m, m).sum(-1) == n).all():
        raise FormatError(f"a mask that does not keep {n} of every {m} inputs")
    return w_NK[mask_NK].view(rows, width // m * n)


def mask(packed: PackedTensor) -> torch.Tensor:
    """Returns which weights are kept, bool [N, K]."""
    chosen_NK = torch.zeros(packed.shape, dtype=torch.bool, device=packed.planes["sparse_index"].device)
    return chosen_NK.scatter_(1, _columns(packed), True)


def index_bits(m: int) -> int:
    """Returns the bits of a place among m."""
    return (m - 1).bit_length()


def plane_specs(scheme: Scheme, shape: tuple[int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Returns dtype and shape of every plane."""
    n, m, rank = (composing.count(scheme, name, least) for name, least in (("n", 1), ("m", 2), ("slorb", 0)))
    values = composing.part_scheme(scheme, "values")
    fits = n < m <= WIDEST and shape[1] % m == 0 and rank <= min(shape)
    if not fits or scheme.bits != values.bits or scheme.group_size != shape[1] or scheme.outliers:
        raise FormatError(f"sparse_nm.v1 cannot have {scheme.to_dict()} for shape {shape}")
    width = shape[1] // m * n
    words = bitstream.words_for(width, index_bits(m))
    specs = {
        **layouts.plane_specs(values, (shape[0], width)),
        "sparse_index": (torch.int32, (shape[0], words)),
    }
    if rank:
        specs["slorb_left"] = (torch.bfloat16, (shape[0], rank))
        specs["slorb_right"] = (torch.bfloat16, (rank, shape[1]))
    return specs


def parts(packed: PackedTensor) -> dict[str, PackedTensor]:
    """Returns the kept weights: `values` [N, J]."""
    options = packed.scheme.options
    shape = (packed.shape[0], packed.shape[1] // options["m"] * options["n"])
    scheme = composing.part_scheme(packed.scheme, "values")
    names = layouts.plane_specs(scheme, shape)
    return {"values": PackedTensor(shape, scheme, composing.select(packed.planes, names))}


def slorb(packed: PackedTensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Returns both factors of the product that is added, or None where there is none."""
    if "slorb_left" not in packed.planes:
        return None
    return packed.planes["slorb_left"], packed.planes["slorb_right"]


def repack(packed: PackedTensor, parts: Mapping[str, PackedTensor]) -> PackedTensor:
    """Returns the tensor with its kept weights stored anew; index and added product stay."""
    n, m = (packed.scheme.options[name] for name in ("n", "m"))
    return pack(parts["values"], mask(packed), n=n, m=m, slorb=slorb(packed))


class Expanded(NamedTuple):
    """The integer planes of a tensor, decoded."""

    values: layouts.Expanded
    columns: torch.Tensor
    """int64 [N, J]: input feature of each kept weight."""
    width: int
    added: bool
    """Whether there is a product that is added."""


def expand(packed: PackedTensor) -> Expanded:
    """Returns the decoded values and where they stand."""
    values = layouts.expand(parts(packed)["values"])
    return Expanded(values, _columns(packed), packed.shape[1], "slorb_left" in packed.planes)


def assemble(expanded: Expanded, planes: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the weight [N, K] as float32, differentiable in the continuous planes."""
    values_NJ = layouts.assemble(expanded.values, planes)
    weight_NK = values_NJ.new_zeros(values_NJ.shape[0], expanded.width).scatter(1, expanded.columns, values_NJ)
    if not expanded.added:
        return weight_NK
    return weight_NK + composing.product(planes["slorb_left"], planes["slorb_right"])


def unpack(packed: PackedTensor) -> torch.Tensor:
    """Returns the weight [N, K] as float32."""
    return assemble(expand(packed), packed.planes)


def validate(packed: PackedTensor, layer: str | None = None) -> None:
    """Raises FormatError for values that cannot come from `pack`."""
    n, m = (packed.scheme.options[name] for name in ("n", "m"))
    places_NGn = _places(packed).view(packed.shape[0], -1, n)
    if (places_NGn >= m).any() or (places_NGn.diff(dim=-1) <= 0).any():
        raise FormatError(f"sparse_index does not rise within 0..{m - 1} in every group", layer=layer)
    composing.check_part(parts(packed)["values"], "values", layer)
    for name in ("slorb_left", "slorb_right"):
        if name in packed.planes and not packed.planes[name].isfinite().all():
            raise FormatError(f"{name} has a value that is not finite", layer=layer)


def _places(packed: PackedTensor) -> torch.Tensor:
    n, m = (packed.scheme.options[name] for name in ("n", "m"))
    kept_of_row = packed.shape[1] // m * n
    return bitstream.unpack_rows(packed.planes["sparse_index"], index_bits(m), kept_of_row).to(torch.int64)


def _columns(packed: PackedTensor) -> torch.Tensor:
    n, m = (packed.scheme.options[name] for name in ("n", "m"))
    places_NJ = _places(packed)
    first_J = torch.arange(places_NJ.shape[1], device=places_NJ.device) // n * m
    columns_NJ: torch.Tensor = first_J + places_NJ
    return columns_NJ
