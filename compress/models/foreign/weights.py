"""Shows the weights that another program quantised as the dense weights that they decode to.

Shape letters: N out features, K in features, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from compress.errors import ModelError
from compress.models.folder.safetensors_header import TensorEntry
from compress.models.folder.tensor_files import TensorFiles
from compress.models.foreign import weight as formats
from compress.models.foreign.formats import Quantisation
from compress.models.foreign.weight import Content, Stored


class ForeignWeights:
    """The quantised weights of a checkpoint, by the names that dense ones would have in it."""

    def __init__(self, quantisation: Quantisation, files: TensorFiles):
        """Finds the weights; no codes are read.

        Raises:
            ModelError: there are none, or they are of a variant of the format that is not read.
        """
        self.label, self.files = quantisation.label, files
        self.settings = {name: value for name, value in quantisation.settings.items() if name != "file"}
        """The description of the quantisation, without the place of a file."""
        self._format = formats.load(quantisation.reader)
        found = self._format.find(quantisation.settings, files)
        if not found.weights:
            raise ModelError(
                f"{quantisation.where} says that the model is quantised ({self.label}), but none of its tensors is",
                do=f"Remove {quantisation.where} if the weights are dense; if they are not, save the model again",
            )
        self._weights = {weight.parameter: weight for weight in found.weights}
        self._unread = found.unread
        self.label = found.label or self.label
        self.warnings = tuple(found.warnings)
        self._last: tuple[str, torch.Tensor] | None = None

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the weights that are quantised."""
        return frozenset(self._weights)

    def shown(self) -> dict[str, TensorEntry]:
        """Returns the model's tensors: the dense ones of the files, and one for each quantised weight."""
        taken = {part for weight in self._weights.values() for part in weight.parts.values()} | {*self._unread}
        dense = {name: entry for name, entry in self.files.tensors.items() if name not in taken}
        return dense | {
            name: TensorEntry(dtype="F32", shape=weight.shape, file="", start=0, end=4 * math.prod(weight.shape))
            for name, weight in self._weights.items()
        }

    def shape(self, parameter: str) -> tuple[int, ...]:
        """Returns the shape of a weight."""
        return self._weights[parameter].shape

    def read(self, parameter: str) -> torch.Tensor:
        """Returns a weight as float32, in the shape of the dense one."""
        self._last = None
        return self.content(parameter).decode()

    def read_rows(self, parameter: str, start: int, stop: int) -> torch.Tensor:
        """Returns rows `start` to `stop` of a matrix as float32 [R, K].

        Where rows cannot be decoded alone, the whole is decoded, and kept until another weight is read.
        """
        if self._weights[parameter].by_rows:
            return self.content(parameter, (start, stop)).decode()
        if self._last is None or self._last[0] != parameter:
            self._last = None  # given back before the next one is read
            self._last = (parameter, self.content(parameter).decode())
        return self._last[1][start:stop]

    def content(self, parameter: str, rows: tuple[int, int] | None = None) -> Content:
        """Returns what is stored of a weight; `rows`: of these rows alone, from and up to, for weights `by_rows`."""
        weight = self._weights[parameter]
        if rows is not None:
            weight = weight.of_rows(rows[1] - rows[0])
        return self._format.read(weight, Stored(self.files, weight, rows))


def size_bytes(tensors: Mapping[str, TensorEntry]) -> int:
    """Returns the bytes of tensors on disk."""
    return sum(entry.end - entry.start for entry in tensors.values())
