"""The reader: gives back what was written, and names what is damaged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.errors import FormatError
from compress.format import manifest, naming
from compress.format.reader import open_checkpoint
from compress.format.writer import CheckpointWriter
from tests.support import format_folders

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    format_folders.write(tmp_path)
    return tmp_path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def rehash(folder: Path) -> None:
    """Makes the manifest agree with damaged shards, as a forger would."""
    records = {}
    for file in (FIRST, SECOND):
        raw = (folder / file).read_bytes()
        records[file] = {"file": file, "size_bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    edit(folder / manifest.MANIFEST, lambda data: data.update(shards=list(records.values())))


def test_it_gives_back_what_was_written(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    checkpoint.verify()
    for name, expected in format_folders.packed().items():
        found = checkpoint.packed(name)
        assert (found.shape, found.scheme) == (expected.shape, expected.scheme)
        assert list(found.planes) == list(expected.planes)
        assert all(torch.equal(found.planes[plane], tensor) for plane, tensor in expected.planes.items())
    assert sorted(checkpoint.dense_names) == sorted(format_folders.dense())
    for name, tensor in format_folders.dense().items():
        assert torch.equal(checkpoint.dense(name), tensor)


def test_names_it_does_not_have_are_refused(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    with pytest.raises(FormatError, match="no packed linear"):
        checkpoint.packed("model.norm")
    with pytest.raises(FormatError, match="no tensor"):
        checkpoint.dense("model.layers.0.up")


@pytest.mark.parametrize("file", [FIRST, SECOND])
def test_a_missing_or_truncated_shard_is_named(folder: Path, file: str) -> None:
    whole = (folder / file).read_bytes()
    for size in (len(whole) - 1, 100, 7, 0):
        (folder / file).write_bytes(whole[:size])
        with pytest.raises(FormatError, match=f"{file} is damaged: it has {size} bytes"):
            open_checkpoint(folder)
    (folder / file).unlink()
    with pytest.raises(FormatError, match=f"{file} is missing"):
        open_checkpoint(folder)


@pytest.mark.parametrize("position", [-1, -40])
def test_an_altered_shard_is_named_with_its_sum(folder: Path, position: int) -> None:
    raw = bytearray((folder / SECOND).read_bytes())
    raw[position] ^= 4
    (folder / SECOND).write_bytes(raw)
    with pytest.raises(FormatError, match=rf"{SECOND} is damaged: its sha256 is [0-9a-f]{{64}}"):
        open_checkpoint(folder).verify()


@pytest.mark.parametrize("length", [0, 7, 10**6, 2**63])
def test_a_header_length_is_not_trusted(folder: Path, length: int) -> None:
    raw = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(length.to_bytes(8, "little") + raw[8:])
    rehash(folder)
    with pytest.raises(FormatError, match=f"{SECOND} is damaged"):
        open_checkpoint(folder)


def forge_header(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = (folder / SECOND).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    (folder / SECOND).write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    rehash(folder)


@pytest.mark.parametrize(
    "change",
    [{"data_offsets": [0, 10**9]}, {"data_offsets": [-4, 12]}, {"data_offsets": [8, 0]}, {"shape": [2**40, 2**40]}],
    ids=str,
)
def test_offsets_and_shapes_are_not_trusted(folder: Path, change: dict[str, Any]) -> None:
    forge_header(folder, lambda header: header["model.layers.0.up.weight"].update(change))
    with pytest.raises(FormatError, match=f"{SECOND} is damaged"):
        open_checkpoint(folder)


def test_planes_of_another_dtype_are_refused(folder: Path) -> None:
    forge_header(folder, lambda header: header["model.layers.0.up.weight"].update(dtype="F32"))
    with pytest.raises(FormatError, match=r"up: its plane 'weight' is \('F32'"):
        open_checkpoint(folder)


def test_a_lost_plane_is_an_error(folder: Path) -> None:
    def rename(header: dict[str, Any]) -> None:
        header["model.layers.0.up.other"] = header.pop("model.layers.0.up.scale")

    forge_header(folder, rename)
    (folder / manifest.INDEX).write_text(
        (folder / manifest.INDEX).read_text().replace("model.layers.0.up.scale", "model.layers.0.up.other")
    )
    with pytest.raises(FormatError, match="up: its plane 'scale' is missing"):
        open_checkpoint(folder)


def test_values_that_no_packer_writes_are_refused(tmp_path: Path) -> None:
    planes = naming.plane_tensors(format_folders.packed())
    planes["model.layers.0.up.scale"][0, 0] = torch.inf
    writer = CheckpointWriter(tmp_path, shard_count=2)
    records = [writer.write_shard(0, format_folders.dense()), writer.write_shard(1, planes)]
    writer.finish(records=records, config={}, manifest=format_folders.manifest())
    checkpoint = open_checkpoint(tmp_path)
    with pytest.raises(FormatError, match="up: scale has a value that is not finite"):
        checkpoint.packed("model.layers.0.up")


def test_an_index_that_says_something_else_is_refused(folder: Path) -> None:
    for target in ("../outside.safetensors", FIRST):
        edit(folder / manifest.INDEX, lambda data, t=target: data["weight_map"].update({"model.layers.0.up.weight": t}))
        with pytest.raises(FormatError, match="does not list the tensors of the shards"):
            open_checkpoint(folder)
    (folder / manifest.INDEX).unlink()
    with pytest.raises(FormatError, match="is missing"):
        open_checkpoint(folder)


def test_a_config_with_other_schemes_is_refused(folder: Path) -> None:
    edit(folder / manifest.CONFIG, lambda data: data["quantization_config"]["tensors"].pop())
    with pytest.raises(FormatError, match="do not agree"):
        open_checkpoint(folder)
    edit(folder / manifest.CONFIG, lambda data: data.pop("quantization_config"))
    with pytest.raises(FormatError, match="do not agree"):
        open_checkpoint(folder)


def test_a_newer_format_and_unknown_layouts_are_refused(folder: Path) -> None:
    edit(folder / manifest.MANIFEST, lambda data: data.update(format_version=4))
    with pytest.raises(FormatError, match="Update it"):
        open_checkpoint(folder)
    edit(folder / manifest.MANIFEST, lambda data: data.update(format_version=1))
    change = {"layout": "new.v1"}
    edit(folder / manifest.MANIFEST, lambda data: data["tensors"]["model.layers.0.up"]["scheme"].update(change))
    with pytest.raises(FormatError, match=r"up: unknown layout 'new\.v1'"):
        open_checkpoint(folder)
