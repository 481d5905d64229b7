"""Reads the tensors of safetensors files one by one with plain file reads. No transformers needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compress.errors import ModelError
from compress.format.dtypes import TORCH_DTYPES
from compress.models.folder.safetensors_header import TensorEntry


class TensorFiles:
    """Tensors by name, and where they lie in the files of one folder."""

    def __init__(self, path: Path, name: str, tensors: Mapping[str, TensorEntry]):
        self.path, self.name, self.tensors = path, name, tensors

    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor in its stored dtype and shape, read with plain file reads (no mapping stays behind)."""
        entry = self._entry(name)
        return self.read_bytes(entry, entry.start, entry.end).view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)

    def read_rows(self, name: str, rows: list[int]) -> torch.Tensor:
        """Returns the named rows of a matrix, in the order given and in the stored dtype, without reading the rest."""
        entry = self._entry(name)
        width = (entry.end - entry.start) // entry.shape[0]
        out = torch.empty(len(rows), width, dtype=torch.uint8)
        for place, row in enumerate(rows):
            start = entry.start + row * width
            out[place] = self.read_bytes(entry, start, start + width)
        return out.view(TORCH_DTYPES[entry.dtype]).reshape(len(rows), *entry.shape[1:])

    def read_slice(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Returns rows `start` to `stop` of a tensor in its stored dtype, without reading the rest."""
        entry = self._entry(name)
        width = (entry.end - entry.start) // entry.shape[0]
        data = self.read_bytes(entry, entry.start + start * width, entry.start + stop * width)
        return data.view(TORCH_DTYPES[entry.dtype]).reshape(stop - start, *entry.shape[1:])

    def _entry(self, name: str) -> TensorEntry:
        if name not in self.tensors:
            raise ModelError(f"{self.name} has no tensor {name}", do="Check that all shards are there")
        return self.tensors[name]

    def read_bytes(self, entry: TensorEntry, start: int, end: int) -> torch.Tensor:
        """Bytes `start` to `end` of the entry's file, uint8."""
        buffer = torch.empty(end - start, dtype=torch.uint8)
        view = bytes_of(buffer)
        # opened anew each time: the loader's threads share no position, and a vanished file is noticed
        try:
            with (self.path / entry.file).open("rb", buffering=0) as file:
                file.seek(start)
                done = 0
                while done < len(view):
                    got = file.readinto(view[done:])
                    if not got:
                        raise ModelError(f"shard {entry.file} ended early", do="Download it again")
                    done += got
        except OSError as error:
            raise ModelError(f"shard {entry.file} cannot be read: {error.strerror or error}") from error
        return buffer


def bytes_of(buffer: torch.Tensor) -> memoryview:
    """The bytes of a uint8 tensor, to be read or written in place."""
    array: Any = buffer.numpy()
    return memoryview(array)
