"""Reads and checks the header of a safetensors file. Nothing in it is trusted.

A file is 8 bytes of header length (little endian), that many bytes of JSON, then the data; the JSON gives each tensor's
dtype, shape and byte range inside the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import ModelError
from compress.format.dtypes import TORCH_DTYPES
from compress.json_files import parse

MAX_HEADER_BYTES = 100_000_000  # the bound of the safetensors library itself
_QUANTISED_DTYPES = ("F4", "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
_CURE = "Download the file again, or save the model again with save_pretrained"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor is stored: bytes `start` to `end` of `file` (a name inside the model's folder)."""

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
    """Returns one checked entry; ValueError when it is malformed."""
    if not isinstance(value, dict):
        raise ValueError(f"tensor {name} is not a table")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if dtype in _QUANTISED_DTYPES:
        raise ModelError(
            f"shard {file}: tensor {name} is stored as {dtype}, a dtype of quantised checkpoints",
            allowed=", ".join(TORCH_DTYPES),
            do="Give the model in float32, bfloat16 or float16",
        )
    if not isinstance(dtype, str) or dtype not in TORCH_DTYPES:
        raise ValueError(f"tensor {name} has unknown dtype {dtype!r}")
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2 and _naturals(shape + offsets)):
        raise ValueError(f"tensor {name} has shape {shape!r} and offsets {offsets!r}")
    start, end = offsets
    if end - start != math.prod(shape) * TORCH_DTYPES[dtype].itemsize:
        raise ValueError(f"tensor {name} of {dtype} {shape} does not fill {end - start} bytes")
    return TensorEntry(dtype, tuple(shape), file, data_start + start, data_start + end)


def _naturals(values: list[Any]) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    return table
