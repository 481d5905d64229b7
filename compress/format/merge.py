"""Joins the shards of a run into few files, by copying their bytes: no tensor is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compress.errors import OutputError
from compress.format import files, manifest
from compress.format.writer import ShardRecord

_CHUNK_BYTES = 1 << 24


def merge(folder: Path, records: Sequence[ShardRecord], most: int) -> list[ShardRecord]:
    """Writes files of up to `most` bytes that hold the tensors of the shards, and returns their records.

    Shards stay in their order; one that is larger than `most` is a file by itself. The shards are not removed, so that
    a run that is killed goes on; where no two fit into one file they are the result as they are. The bytes depend on
    the tensors and on `most` alone.

    Raises:
        OutputError: a file cannot be written, or a shard has changed.
    """
    groups = _groups(records, most)
    if len(groups) == len(records):
        return list(records)
    return [_write(folder, manifest.shard_name(number, len(groups)), group) for number, group in enumerate(groups)]


def remove_parts(folder: Path, records: Sequence[ShardRecord], kept: Sequence[str]) -> None:
    """Removes the shards that were joined: those of `records` whose file is not among `kept`."""
    for record in records:
        if record.file not in kept:
            (folder / record.file).unlink(missing_ok=True)


def _groups(records: Sequence[ShardRecord], most: int) -> list[list[ShardRecord]]:
    groups: list[list[ShardRecord]] = []
    for record in records:
        if groups and sum(other.size_bytes for other in groups[-1]) + record.size_bytes <= most:
            groups[-1].append(record)
        else:
            groups.append([record])
    return groups


def _write(folder: Path, file: str, group: Sequence[ShardRecord]) -> ShardRecord:
    places: dict[str, tuple[Path, int, int]] = {}
    described: files.Described = {}
    for record in group:
        path = folder / record.file
        start, header = _header(path)
        for name, tensor in record.tensors.items():
            first, last = header[name]["data_offsets"]
            places[name], described[name] = (path, start + first, last - first), tensor
    header_bytes, ordered = files.header(described)
    size_bytes, sha256 = files.write_whole(folder / file, _chunks(header_bytes, [places[name] for name in ordered]))
    return ShardRecord(file, size_bytes, sha256, ordered)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Returns where the data of a safetensors file begins, and its header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    return 8 + length, header


def _chunks(header: bytes, places: Sequence[tuple[Path, int, int]]) -> Iterator[bytes]:
    yield header
    for path, start, size in places:
        with path.open("rb") as file:
            file.seek(start)
            while size:
                chunk = file.read(min(size, _CHUNK_BYTES))
                if not chunk:
                    raise OutputError(f"{path.name} ended early", do="Start over with --fresh")
                size -= len(chunk)
                yield chunk
