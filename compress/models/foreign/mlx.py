"""MLX, mode `affine`: w = scale · code + bias in groups of a row.

    X.weight  uint32 [N, K·b/32]   dense stream of the codes of a row
    X.scales  [N, G]
    X.biases  [N, G]

Embedding and head may be stored so too. A bias of −z · scale with an integer z is a zero point.

Shape letters: N out features, K in features, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import ModelError
from compress.format.layouts import bits as bitstream
from compress.models.foreign.affine import Affine
from compress.models.foreign.weight import ForeignWeight, Found, Stored, modules_with, parts_of, unusable

if TYPE_CHECKING:
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


def read(weight: ForeignWeight, stored: Stored) -> Affine:
    """See `Format`."""
    rows, columns = weight.shape
    bits = weight.details

    def codes() -> torch.Tensor:
        return bitstream.unpack_rows(stored["weight"].view(torch.int32), bits, columns)

    return Affine(bits, (rows, columns), codes, stored["scales"], stored["biases"])
