"""The header of a safetensors file, read with the standard library and believed in nothing.

A file is 8 bytes of header length (little endian), that many bytes of JSON, then the data; the JSON gives each tensor's
dtype, shape and byte range inside the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import ModelError
from compress.json_files import parse

MAX_HEADER_BYTES = 100_000_000  # the bound of the safetensors library itself
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_CURE = "Download the file again, or save the model again with save_pretrained"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: bytes `start` to `end` of `file` (a name inside the model's folder)."""

    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Returns the tensors of one file by name; every byte range lies inside the file and fits its shape.

    Raises:
        ModelError: the file is missing, truncated or malformed.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 0 < length <= min(size - 8, MAX_HEADER_BYTES):
                raise ModelError(
                    f"shard {path.name} is truncated or no safetensors file: {size} bytes, header of {length}", do=_CURE
                )
            text = file.read(length)
    except OSError as error:
        raise ModelError(f"shard {path.name} cannot be read: {error.strerror or error}", do=_CURE) from error
    try:
        header = parse(text, object_pairs_hook=_no_duplicates)
        if not isinstance(header, dict):
            raise ValueError("not a table")
        entries = {
            name: _entry(name, value, path.name, 8 + length) for name, value in header.items() if name != "__metadata__"
        }
    except ValueError as error:
        raise ModelError(f"shard {path.name} has a malformed header: {error}", do=_CURE) from error
    for name, entry in entries.items():
        if entry.end > size:
            raise ModelError(
                f"shard {path.name} is truncated: tensor {name} ends at byte {entry.end}, the file at {size}", do=_CURE
            )
    return entries


def _entry(name: str, value: Any, file: str, data_start: int) -> TensorEntry:
    """One checked entry; raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"tensor {name} is not a table")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(f"tensor {name} has unknown dtype {dtype!r}")
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2 and _naturals(shape + offsets)):
        raise ValueError(f"tensor {name} has shape {shape!r} and offsets {offsets!r}")
    start, end = offsets
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"tensor {name} of {dtype} {shape} does not fill {end - start} bytes")
    return TensorEntry(dtype, tuple(shape), file, data_start + start, data_start + end)


def _naturals(values: list[Any]) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table
