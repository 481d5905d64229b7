"""dense.v1: plain floating point numbers, only ever as a part of a composite layout.

    weight  [N, K]  float16, bfloat16 or float32 (`dtype` of the scheme)

A whole linear is never stored under this layout: it would be an ordinary weight, which needs no manifest entry and
which any loader reads. So its id is not among the layouts of a checkpoint, and `layouts.check` refuses it.

Shape letters: N out features, K in features of the part.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from compress.errors import FormatError
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme

PART_LAYOUT = "dense.v1"
CONTINUOUS = ("weight",)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def pack(weight_NK: torch.Tensor) -> PackedTensor:
    """Returns the part for a weight in one of DTYPES, which is the dtype that it is stored in."""
    name = str(weight_NK.dtype).removeprefix("torch.")
    shape = (weight_NK.shape[0], weight_NK.shape[1])
    bits = 8 * weight_NK.dtype.itemsize
    scheme = Scheme(layout=PART_LAYOUT, bits=bits, group_size=shape[1], options={"dtype": name})
    plane_specs(scheme, shape)
    return PackedTensor(shape, scheme, {"weight": weight_NK.contiguous()})


def plane_specs(scheme: Scheme, shape: tuple[int, int]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Returns dtype and shape of the one plane."""
    name = scheme.options.get("dtype")
    if name not in DTYPES:
        raise FormatError(f"dense.v1 with dtype {name!r}", allowed=", ".join(DTYPES))
    dtype = DTYPES[name]
    if scheme.bits != 8 * dtype.itemsize or scheme.group_size != shape[1] or scheme.outliers:
        raise FormatError(f"dense.v1 cannot have {scheme.to_dict()} for shape {shape}")
    return {"weight": (dtype, shape)}


def expand(packed: PackedTensor) -> None:
    """Returns nothing: there are no integers in it."""


def assemble(expanded: None, planes: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the weight [N, K] as float32, differentiable in it."""
    return planes["weight"].float()


def unpack(packed: PackedTensor) -> torch.Tensor:
    """Returns the weight [N, K] as float32."""
    return assemble(None, packed.planes)


def validate(packed: PackedTensor, layer: str | None = None) -> None:
    """Raises FormatError for values that cannot come from a finite weight."""
    if not packed.planes["weight"].isfinite().all():
        raise FormatError("weight has a value that is not finite", layer=layer)
