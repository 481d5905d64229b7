"""MLX, mode `affine`: w = scale · code + bias in groups of a row.

    X.weight  uint32 [N, K·b/32]   dense stream of the codes of a row
    X.scales  [N, G]
    X.biases  [N, G]

Embedding and head may be stored so too. A bias of −z · scale with an integer z is a zero point.

Shape letters: N out features, K in features, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import ModelError
from compress.format.layouts import bits as bitstream
from compress.models.foreign.integers import Integers
from compress.models.foreign.weight import ForeignWeight, Found, Stored, modules_with, parts_of, unusable

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.format.scheme import Scheme
    from compress.models.folder.tensor_files import TensorFiles


def find(settings: Mapping[str, Any], files: TensorFiles) -> Found:
    """See `Format`."""
    mode = settings.get("mode", "affine")
    if mode != "affine":
        raise ModelError(
            f"the weights are stored in mode {mode} of MLX",
            allowed="affine",
            do="Save the model again in this mode, or give the original model",
        )
    return Found([_weight(module, settings, files) for module in modules_with(files, "scales")])


def _weight(module: str, settings: Mapping[str, Any], files: TensorFiles) -> ForeignWeight:
    parts = parts_of(module, files, ("weight", "scales", "biases"))
    own = settings.get(module)
    options = own if isinstance(own, Mapping) else settings
    bits, group, words = options.get("bits"), options.get("group_size"), files.tensors[parts["weight"]]
    scales, biases = files.tensors[parts["scales"]].shape, files.tensors[parts["biases"]].shape
    if not isinstance(bits, int) or not isinstance(group, int) or len(scales) != 2 or not 1 <= bits <= 8:
        raise unusable(module, f"it has {bits} bits in groups of {group} and scales {list(scales)}", "a matrix")
    rows, columns = scales[0], scales[1] * group
    if scales != biases or words.dtype != "U32" or words.shape != (rows, bitstream.words_for(columns, bits)):
        raise unusable(module, f"its weight {list(words.shape)} does not hold {[rows, columns]} codes of {bits} bits")
    return ForeignWeight(f"{module}.weight", (rows, columns), parts, bits, by_rows=True)


@dataclass(frozen=True)
class Affine:
    """The content of a weight: see `Content`."""

    stored: Stored
    bits: int
    shape: tuple[int, int]
    scale_NG: torch.Tensor  # noqa: N815
    bias_NG: torch.Tensor  # noqa: N815

    def _codes(self) -> torch.Tensor:
        return bitstream.unpack_rows(self.stored["weight"].view(torch.int32), self.bits, self.shape[1])

    def decode(self) -> torch.Tensor:
        """See `Content`."""
        groups = self.scale_NG.shape[1]
        weight_NGg = self._codes().float().view(self.shape[0], groups, -1)
        weight_NGg = weight_NGg * self.scale_NG.float()[..., None] + self.bias_NG.float()[..., None]
        return weight_NGg.view(self.shape)

    @cached_property
    def _integers(self) -> Integers | None:
        """The same values with zero points, where every bias is that of one."""
        scale_NG, bias_NG = self.scale_NG.float(), self.bias_NG.float()
        zero_NG = torch.where(scale_NG == 0, 0, (-bias_NG / scale_NG).round()).nan_to_num(-1)
        inside = bool(((zero_NG >= 0) & (zero_NG < 1 << self.bits)).all())
        # all products are exact in float32 then, and (q − z) · scale is what q · scale + bias is
        exact = torch.equal(zero_NG.double() * scale_NG.double(), -bias_NG.double())
        if not (inside and exact and _of_16_bits(scale_NG)):
            return None
        scale = self.scale_NG
        if scale.dtype == torch.float32 and torch.equal(scale, scale.half().float()):
            scale = scale.half()  # exports store half scales in float32 so that products with zero points are exact
        return Integers(self.bits, self.shape, self._codes, scale, zero_NG.to(torch.uint8))

    def scheme(self) -> Scheme | None:
        """See `Content`."""
        return None if self._integers is None else self._integers.scheme()

    def packed(self) -> PackedTensor | None:
        """See `Content`."""
        return None if self._integers is None else self._integers.packed()


def _of_16_bits(scale_NG: torch.Tensor) -> bool:
    """Returns whether scales are exact in 16 bits: no product of one with a code of 8 bits is rounded in float32."""
    return any(torch.equal(scale_NG, scale_NG.to(dtype).float()) for dtype in (torch.float16, torch.bfloat16))


def read(weight: ForeignWeight, stored: Stored) -> Affine:
    """See `Format`."""
    rows, columns = weight.shape
    return Affine(stored, weight.details, (rows, columns), stored["scales"], stored["biases"])
