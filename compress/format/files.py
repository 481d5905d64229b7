"""Writes files atomically: `*.partial`, synced, renamed, folder synced.

The bytes depend on the content alone: the safetensors header is laid out here, since the order that the library picks
is no part of its promise.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from compress.errors import FormatError, OutputError
from compress.format.dtypes import STORED_NAMES, TORCH_DTYPES

_ALIGN = 8
_CHUNK_BYTES = 1 << 24

Described = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name -> (safetensors dtype, shape)."""


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], names: Mapping[torch.dtype, str] = STORED_NAMES
) -> tuple[int, str, Described]:
    """Writes a safetensors file without a second copy of the tensors; returns its size, sha256 and tensor list.

    `names` has the dtypes that may be written; by default those that a checkpoint of this package may hold.
    """
    described: Described = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in names:
            raise FormatError(f"{name} is {tensor.dtype}", allowed=", ".join(map(str, names)))
        described[name] = (names[tensor.dtype], tuple(tensor.shape))
    head, ordered = header(described)
    return *write_whole(path, _chunks(head, [tensors[name] for name in ordered])), ordered


def write_json(path: Path, data: Any) -> None:
    """Writes a JSON file; NaN is refused."""
    write_whole(path, [(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()])


def copy(source: Path, path: Path) -> None:
    """Copies a file."""
    write_whole(path, _file_chunks(source))


def move(source: Path, path: Path) -> None:
    """Moves a file to `path` on the same disk, replacing any file there."""
    try:
        os.replace(source, path)
        _sync_folder(path.parent)
        _sync_folder(source.parent)
    except OSError as error:
        raise OutputError(f"cannot move {source} to {path}: {error.strerror or error}") from error


def write_whole(path: Path, chunks: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Writes a file and returns its size and sha256; a failed write is an OutputError."""
    partial = path.with_name(path.name + ".partial")
    digest, size_bytes = hashlib.sha256(), 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb", buffering=0) as file:
            for chunk in chunks:
                view = memoryview(chunk)
                digest.update(view)
                size_bytes += len(view)
                while view:  # an unbuffered write may take less than it was given
                    view = view[os.write(file.fileno(), view[:_CHUNK_BYTES]) :]
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        # gives the space back; if even that fails, the suffix still marks the file as incomplete
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {path} ({size_bytes} bytes so far): {error.strerror or error}",
            do="Make room or give another output folder, then run the same command again: finished work is kept",
        ) from error
    return size_bytes, digest.hexdigest()


def header(described: Described) -> tuple[bytes, Described]:
    """Returns the header of a safetensors file of these tensors, and the tensors in the order of their data.

    The widest elements come first, then the order is by name: every tensor is aligned, and the order is fixed.
    """
    ordered = dict(sorted(described.items(), key=lambda item: (-_itemsize(item[1][0]), item[0])))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, (dtype, shape) in ordered.items():
        end = start + math.prod(shape) * _itemsize(dtype)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGN)
    return len(text).to_bytes(8, "little") + text, ordered


def _itemsize(dtype: str) -> int:
    return TORCH_DTYPES[dtype].itemsize


def _chunks(header: bytes, tensors: Iterable[torch.Tensor]) -> Iterator[bytes | memoryview]:
    yield header
    for tensor in tensors:
        if tensor.numel():
            yield memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _file_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
