"""AQLM: sums of codebook vectors, as the package `aqlm` reads them.

X.codes      int8 or int16 [N, K/g, M]   unsigned codes stored in a signed dtype; int8 up to 8 bits
X.codebooks  float16 [M, 2^b, 1, g]
X.scales     float16 [N, 1, 1, 1]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from compress.errors import OutputError
from compress.exports.linear import EXPERT, Linear, not_inside_a_block, not_of_layout
from compress.format.layouts import additive
from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor


def reason(linear: Linear) -> str | None:
    """See `Target.reason`."""
    if linear.kind == EXPERT:
        return "transformers replaces linears there, and no experts"
    if (why := not_inside_a_block(linear) or not_of_layout(linear, additive.LAYOUT)) is not None:
        return why
    return None if linear.scheme.options["scale_dtype"] == "float16" else "scales are float16 there"


def arrange(linears: Mapping[str, Linear]) -> dict[str, Linear]:
    """See `Target.arrange`: all linears have the same codebooks' sizes."""
    kinds = {_sizes(one) for one in linears.values()}
    if len(kinds) > 1:
        listed = ", ".join(f"{books}×{bits} bits for {group} weights" for books, bits, group in sorted(kinds))
        raise OutputError(
            f"the linears have different codebooks: {listed}",
            allowed="one number and size of codebooks for all linears",
            do="Compress with the same codebooks everywhere",
        )
    return dict(linears)


def _sizes(linear: Linear) -> tuple[int, int, int]:
    return linear.scheme.options["codebooks"], linear.scheme.bits, linear.scheme.group_size


def tensors(linear: Linear, packed: PackedTensor) -> dict[str, torch.Tensor]:
    """See `Target.tensors`."""
    books, bits, group = _sizes(linear)
    rows, columns = linear.shape
    codes = bitstream.unpack_rows(packed.planes["weight"], bits, columns // group * books)
    signed = codes.view(torch.int8) if bits <= 8 else codes.to(torch.int16)
    return {
        "codes": signed.view(rows, columns // group, books),
        "codebooks": packed.planes["codebooks"][:, :, None],
        "scales": packed.planes["scale"].view(rows, 1, 1, 1),
    }


def decode(linear: Linear, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """See `Target.decode`."""
    codes_NJM = stored["codes"].int() & ((1 << linear.scheme.bits) - 1)
    books_MVg = stored["codebooks"].float()[:, :, 0]
    value_NJg = books_MVg.new_zeros(())
    for book, vectors_Vg in enumerate(books_MVg):
        value_NJg = value_NJg + vectors_Vg[codes_NJM[..., book]]
    return value_NJg.flatten(1) * stored["scales"].float().view(-1, 1)


def describe(linears: Mapping[str, Linear], dense: list[str]) -> dict[str, Any]:
    """See `Target.describe`."""
    books, bits, group = _sizes(next(iter(linears.values())))
    return {
        "quantization_config": {
            "quant_method": "aqlm", "in_group_size": group, "out_group_size": 1, "num_codebooks": books,
            "nbits_per_codebook": bits, "linear_weights_not_to_quantize": dense,
        }
    }  # fmt: skip
