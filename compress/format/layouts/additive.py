"""additive.v1: every run of g weights of a row is a sum of M vectors, one from each codebook (AQLM, arXiv 2401.06118).

    weight      int32 [N, ceil(J·M·b/32)]   bit stream along the row: the M codes of group 0, those of group 1, …
    codebooks   float16 [M, 2^b, g]         shared by all rows
    scale       [N]                         float16, or float32 (`scale_dtype` of the scheme)

Meaning, all in float32: the weights j·g to (j+1)·g − 1 of row n are scale[n] · Σ_m codebooks[m, code[n, j, m]]. The
scheme's `bits` is b, its `group_size` g; `codebooks` of its options is M.

Shape letters: N out features, K in features, M codebooks, J groups of g columns, V = 2^b vectors of a codebook.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from compress.errors import FormatError
from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme

LAYOUT = "additive.v1"
CONTINUOUS = ("codebooks", "scale")
_SCALE_DTYPES = {"float16": torch.float16, "float32": torch.float32}
_MOST_CODEBOOKS = 64


class Expanded(NamedTuple):
    """The codes, decoded."""

    codes_NJM: torch.Tensor  # noqa: N815
    """Codes in the dtype of `bits.code_dtype`."""


def pack(codes_NJM: torch.Tensor, codebooks_MVg: torch.Tensor, scale_N: torch.Tensor) -> PackedTensor:
    """Returns the packed tensor for codes 0 ≤ c < V; V must be a power of two.

    Args:
        codes_NJM: integer codes.
        codebooks_MVg: vectors, stored as float16.
        scale_N: scales in the dtype they are stored in.
    """
    rows, groups, books = codes_NJM.shape
    vectors, width = codebooks_MVg.shape[1:]
    bits = vectors.bit_length() - 1
    planes = {
        "weight": bitstream.pack_rows(codes_NJM.reshape(rows, groups * books), bits),
        "codebooks": codebooks_MVg.to(torch.float16).contiguous(),
        "scale": scale_N.contiguous(),
    }
    options = {"codebooks": books, "scale_dtype": str(scale_N.dtype).removeprefix("torch."), "outliers": 0}
    scheme = Scheme(layout=LAYOUT, bits=bits, group_size=width, options=options)
    return PackedTensor((rows, groups * width), scheme, planes)


def plane_specs(scheme: Scheme, shape: tuple[int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Returns dtype and shape of every plane."""
    (rows, in_features), books, width = shape, scheme.options.get("codebooks"), scheme.group_size
    counted = isinstance(books, int) and not isinstance(books, bool) and 1 <= books <= _MOST_CODEBOOKS
    if not counted or not 1 <= scheme.bits <= 16 or width < 1 or in_features % width:
        raise FormatError(f"additive.v1 cannot have {scheme.to_dict()} for shape {shape}")
    if scheme.options.get("scale_dtype") not in _SCALE_DTYPES:
        raise FormatError(f"scale_dtype {scheme.options.get('scale_dtype')!r}", allowed=", ".join(_SCALE_DTYPES))
    if scheme.outliers:
        raise FormatError("additive.v1 has no sparse part", allowed="outliers: 0")
    assert isinstance(books, int)
    words = bitstream.words_for(in_features // width * books, scheme.bits)
    return {
        "weight": (torch.int32, (rows, words)),
        "codebooks": (torch.float16, (books, 1 << scheme.bits, width)),
        "scale": (_SCALE_DTYPES[scheme.options["scale_dtype"]], (rows,)),
    }


def expand(packed: PackedTensor) -> Expanded:
    """Returns the decoded codes."""
    rows, in_features = packed.shape
    books = packed.scheme.options["codebooks"]
    groups = in_features // packed.scheme.group_size
    codes = bitstream.unpack_rows(packed.planes["weight"], packed.scheme.bits, groups * books)
    return Expanded(codes.view(rows, groups, books))


def assemble(expanded: Expanded, planes: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the weight [N, K] as float32, differentiable in codebooks and scale."""
    codes_NJM, codebooks_MVg = expanded.codes_NJM, planes["codebooks"].float()
    value_NJg = codebooks_MVg.new_zeros(())
    for book, codebook_Vg in enumerate(codebooks_MVg):
        value_NJg = value_NJg + torch.nn.functional.embedding(codes_NJM[..., book].int(), codebook_Vg)
    return value_NJg.flatten(1) * planes["scale"].float()[:, None]


def unpack(packed: PackedTensor) -> torch.Tensor:
    """Returns the weight [N, K] as float32."""
    return assemble(expand(packed), packed.planes)


def validate(packed: PackedTensor, layer: str | None = None) -> None:
    """Raises FormatError for values that cannot come from `pack`; a code of b bits cannot leave its codebook."""
    for name in CONTINUOUS:
        if not packed.planes[name].isfinite().all():
            raise FormatError(f"{name} has a value that is not finite", layer=layer)
