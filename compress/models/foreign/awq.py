"""AWQ, version `gemm`, as AutoAWQ writes it: eight outputs in a word, in an order of their own.

    X.qweight  int32 [K, N/8]   nibble i of a word is the code of output 8c + (0, 2, 4, 6, 1, 3, 5, 7)[i]
    X.qzeros   int32 [G, N/8]   zero points in the same order
    X.scales   [G, N]

Shape letters: N out features, K in features, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import ModelError
from compress.format.layouts import bits as bitstream
from compress.models.foreign.integers import Integers
from compress.models.foreign.weight import ForeignWeight, Found, Stored, modules_with, parts_of, unusable

if TYPE_CHECKING:
    from compress.models.folder.tensor_files import TensorFiles

_BITS = 4
_PLACE = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
"""Nibble in which each of eight outputs stands."""


def find(settings: Mapping[str, Any], files: TensorFiles) -> Found:
    """See `Format`."""
    version, bits = str(settings.get("version", "gemm")).lower(), settings.get("bits", settings.get("w_bit", _BITS))
    if version != "gemm" or bits != _BITS:
        raise ModelError(
            f"the checkpoint is packed as AWQ, version {version}, {bits} bits",
            allowed=f"version gemm, {_BITS} bits",
            do="Save it again with version GEMM in AutoAWQ, or give the original model",
        )
    return Found([_weight(module, files) for module in modules_with(files, "qweight")])


def _weight(module: str, files: TensorFiles) -> ForeignWeight:
    tensors = files.tensors
    parts = parts_of(module, files, ("qweight", "qzeros", "scales"))
    (columns, words), (groups, rows) = tensors[parts["qweight"]].shape, tensors[parts["scales"]].shape
    fits = words * 8 == rows and tensors[parts["qzeros"]].shape == (groups, words) and columns % groups == 0
    if not fits or tensors[parts["qweight"]].dtype != "I32":
        raise unusable(
            module,
            f"its tensors qweight {[columns, words]}, qzeros {list(tensors[parts['qzeros']].shape)} and scales "
            f"{[groups, rows]} do not fit together",
            "the shapes of version gemm: [K, N/8], [G, N/8] and [G, N]",
        )
    return ForeignWeight(f"{module}.weight", (rows, columns), parts)


def read(weight: ForeignWeight, stored: Stored) -> Integers:
    """See `Format`."""
    rows, columns = weight.shape
    return Integers(
        bits=_BITS,
        shape=(rows, columns),
        codes=partial(_codes, stored, rows),
        scale_NG=stored["scales"].T.contiguous(),
        zero_NG=_unpack(stored["qzeros"], rows).T,
    )


def _codes(stored: Stored, rows: int) -> torch.Tensor:
    return _unpack(stored["qweight"], rows).T.contiguous()


def _unpack(words_RW: torch.Tensor, count: int) -> torch.Tensor:
    """Returns `count` nibbles of each row in the order of the outputs, uint8."""
    nibbles_RC = bitstream.unpack_rows(words_RW, _BITS, count)
    return nibbles_RC.view(len(nibbles_RC), -1, 8)[..., _PLACE].reshape(len(nibbles_RC), count)
