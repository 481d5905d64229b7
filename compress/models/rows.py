"""Reads rows of a matrix of the model without the rest of it: of the token embedding and of the output head.

Shape letters: R rows, H hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from compress.format import layouts

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.models.folder.tensor_files import TensorFiles


class Rows(Protocol):
    """A matrix that is read by rows."""

    def rows(self, rows_R: torch.Tensor) -> torch.Tensor:
        """Returns the rows `rows_R` (int64), [R, H] in the dtype that they are stored in."""

    def stretch(self, start: int, stop: int) -> torch.Tensor:
        """Returns the rows from `start` up to `stop`, [R, H] in the dtype that they are stored in."""


class StoredRows:
    """A tensor of a checkpoint."""

    def __init__(self, files: TensorFiles, name: str) -> None:
        self._files, self._name = files, name

    def rows(self, rows_R: torch.Tensor) -> torch.Tensor:
        return self._files.read_rows(self._name, rows_R.tolist())

    def stretch(self, start: int, stop: int) -> torch.Tensor:
        return self._files.read_slice(self._name, start, stop)


class PackedRows:
    """A packed matrix, of which the rows that are asked for are decoded to float32."""

    def __init__(self, packed: PackedTensor) -> None:
        self._packed = packed

    def rows(self, rows_R: torch.Tensor) -> torch.Tensor:
        return layouts.unpack_rows(self._packed, rows_R.cpu())

    def stretch(self, start: int, stop: int) -> torch.Tensor:
        return layouts.unpack_rows(self._packed, torch.arange(start, stop))
