"""AQLM, as the package aqlm writes it: sums of codebook vectors.

    X.codes      int8 or int16 [N/o, K/g, M]   unsigned codes stored in a signed dtype
    X.codebooks  [M, 2^b, o, g]
    X.scales     [N/o, 1, 1, 1]

Shape letters: N out features, K in features, M codebooks, V vectors of a codebook, o rows and g columns of a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from compress.format.layouts import additive
from compress.format.scheme import Scheme
from compress.models.foreign.weight import ForeignWeight, Found, Stored, modules_with, parts_of, unusable

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.models.folder.tensor_files import TensorFiles


def find(settings: Mapping[str, Any], files: TensorFiles) -> Found:
    """See `Format`."""
    found = Found([_weight(module, files) for module in modules_with(files, "codebooks")])
    sizes = {files.tensors[weight.parts["codebooks"]].shape[:2] for weight in found.weights}
    found.label = f"aqlm, {' and '.join(f'{books}×{count.bit_length() - 1} bits' for books, count in sorted(sizes))}"
    return found


def _weight(module: str, files: TensorFiles) -> ForeignWeight:
    parts = parts_of(module, files, ("codes", "codebooks", "scales"))
    codes, books, scales = (files.tensors[parts[part]].shape for part in ("codes", "codebooks", "scales"))
    fits = len(codes) == 3 and len(books) == 4 and codes[2] == books[0] and scales == (codes[0], 1, 1, 1)
    if not fits or books[1] & (books[1] - 1):
        raise unusable(
            module,
            f"its tensors codes {list(codes)}, codebooks {list(books)} and scales {list(scales)} do not fit together",
            "[N/o, K/g, M], [M, 2^b, o, g] and [N/o, 1, 1, 1]",
        )
    return ForeignWeight(f"{module}.weight", (codes[0] * books[2], codes[1] * books[3]), parts)


@dataclass(frozen=True)
class Vectors:
    """The content of a weight: see `Content`."""

    stored: Stored
    books_MVog: torch.Tensor  # noqa: N815
    scale_N: torch.Tensor  # noqa: N815

    @property
    def _bits(self) -> int:
        return self.books_MVog.shape[1].bit_length() - 1

    def _codes(self) -> torch.Tensor:
        return self.stored["codes"].int() & (self.books_MVog.shape[1] - 1)

    def decode(self) -> torch.Tensor:
        """Returns the weight: vectors are summed in float32, in the order of the codebooks, then scaled."""
        codes_RJM = self._codes()
        rows, groups, _ = codes_RJM.shape
        value_RJog = torch.zeros(rows, groups, *self.books_MVog.shape[2:])
        for book, vectors_Vog in enumerate(self.books_MVog.float()):
            value_RJog += vectors_Vog[codes_RJM[..., book]]
        value_RJog *= self.scale_N.float().view(-1, 1, 1, 1)
        return value_RJog.transpose(1, 2).reshape(rows * value_RJog.shape[2], -1)

    def scheme(self) -> Scheme | None:
        """See `Content`."""
        books = self.books_MVog
        held = books.shape[2] == 1 and torch.equal(books, books.half().to(books.dtype))
        if not held or self.scale_N.dtype not in (torch.float16, torch.float32) or not 1 <= self._bits <= 16:
            return None
        dtype = str(self.scale_N.dtype).removeprefix("torch.")
        options = {"codebooks": len(books), "scale_dtype": dtype, "outliers": 0}
        return Scheme(layout=additive.LAYOUT, bits=self._bits, group_size=books.shape[3], options=options)

    def packed(self) -> PackedTensor | None:
        """See `Content`."""
        if self.scheme() is None:
            return None
        return additive.pack(self._codes(), self.books_MVog[:, :, 0], self.scale_N)


def read(weight: ForeignWeight, stored: Stored) -> Vectors:
    """See `Format`."""
    return Vectors(stored, stored["codebooks"], stored["scales"].view(-1))
