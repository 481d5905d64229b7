"""Reads the header of a GGUF file: plain values and the places of the tensors. Standard library only.

    "GGUF", version 2 or 3, number of tensors, number of keys
    for each key:     name, type of the value, value
    for each tensor:  name, number of dimensions, their sizes (the innermost first), type, offset in the data
    the data, from the next multiple of `general.alignment` on

The package `gguf` reads long vocabularies into objects, which takes seconds; here arrays are passed over.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import ModelError

MAGIC = b"GGUF"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST = 1 << 24
"""Largest number of tensors, keys or dimensions that is believed."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies, and how it is encoded."""

    shape: tuple[int, ...]
    """Decoded, the outermost dimension first."""
    kind: int
    """Number of its type in `enum ggml_type`."""
    start: int
    """First byte in the file."""


class Header:
    """The header of a GGUF file."""

    def __init__(self, file: Path) -> None:
        """Reads it.

        Raises:
            ModelError: the file is no GGUF, or it is damaged.
        """
        self.file, self.size = file, file.stat().st_size
        self.values: dict[str, Any] = {}
        """Numbers and texts by key; arrays are left out."""
        self.tensors: dict[str, StoredTensor] = {}
        """Tensors by name, in the order of the file."""
        try:
            with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                self._parse(_Cursor(data))
        except (OSError, ValueError, struct.error) as error:
            raise ModelError(f"{file} has a header that cannot be read: {error}", do="Download it again") from error

    @property
    def architecture(self) -> str:
        """What the file calls its architecture."""
        return str(self.values.get("general.architecture"))

    def read(self, name: str) -> bytes:
        """Returns the bytes of a tensor of 32-bit numbers."""
        tensor, count = self.tensors[name], 4
        for size in tensor.shape:
            count *= size
        with self.file.open("rb") as file:
            file.seek(tensor.start)
            return file.read(count)

    def _parse(self, cursor: _Cursor) -> None:
        if cursor.take(4) != MAGIC:
            raise ValueError("it is no GGUF file")
        version, tensors, keys = cursor.unpack("I"), cursor.unpack("Q"), cursor.unpack("Q")
        if version not in (2, 3) or max(tensors, keys) > _MOST:
            raise ValueError(f"version {version}, {tensors} tensors and {keys} keys")
        for _ in range(keys):
            key = cursor.text()
            value = cursor.value(cursor.unpack("I"))
            if value is not None:
                self.values[key] = value
        places = []
        for _ in range(tensors):
            name, dimensions = cursor.text(), cursor.unpack("I")
            if dimensions > 4 or name in self.tensors:
                raise ValueError(f"the tensor {name} has {dimensions} dimensions, or occurs twice")
            shape = tuple(reversed([cursor.unpack("Q") for _ in range(dimensions)]))
            places.append((name, shape, cursor.unpack("I"), cursor.unpack("Q")))
        alignment = int(self.values.get("general.alignment", 32)) or 32
        data = -(-cursor.place // alignment) * alignment
        for name, shape, kind, offset in places:
            if data + offset > self.size:
                raise ValueError(f"the tensor {name} begins behind the end of the file")
            self.tensors[name] = StoredTensor(shape, kind, data + offset)


class _Cursor:
    """A place in the bytes of a header."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self.place = data, 0

    def take(self, count: int) -> bytes:
        """Returns the next bytes."""
        if count < 0 or self.place + count > len(self._data):
            raise ValueError("it ends early")
        found = self._data[self.place : self.place + count]
        self.place += count
        return found

    def unpack(self, code: str) -> Any:
        """Returns the next number, by its letter in `struct`."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        """Returns the next text."""
        return self.take(self.unpack("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        """Returns the next value of a type; None for an array, which is passed over."""
        if kind in _SCALARS:
            return self.unpack(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a value of type {kind}")
        inner, count = self.unpack("I"), self.unpack("Q")
        if inner in _SCALARS:
            self.take(count * struct.calcsize(_SCALARS[inner]))
        elif inner in (_STRING, _ARRAY):
            for _ in range(count):
                if inner == _STRING:
                    self.take(self.unpack("Q"))
                else:
                    self.value(_ARRAY)
        else:
            raise ValueError(f"an array of type {inner}")
        return None
