"""GGUF files in several parts, read by the package `gguf`."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.errors import FormatError, OutputError
from compress.exports.gguf import split as splitting
from compress.exports.gguf.split import split

gguf = pytest.importorskip("gguf", reason="the package gguf is in the extra gguf")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with blocks and float32, of 4 tensors: 72, 400, 80 and 72 bytes."""
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "b"])
    writer.add_array("scores", [0.5, 1.5])
    blocks = np.arange(4 * 18, dtype=np.uint8).reshape(4, 18)
    writer.add_tensor("a", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("b", np.arange(100, dtype=np.float32))
    writer.add_tensor("c", np.arange(20, dtype=np.float32).reshape(4, 5))
    writer.add_tensor("d", blocks[::-1].copy(), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(path: Path) -> dict[str, tuple[Any, bytes, list[int]]]:
    reader = gguf.GGUFReader(path)
    return {one.name: (one.tensor_type, one.data.tobytes(), one.shape.tolist()) for one in reader.tensors}


def test_parts_hold_the_same(file: Path) -> None:
    whole, before = tensors(file), {key: field.contents() for key, field in gguf.GGUFReader(file).fields.items()}
    parts = split(file, 160)
    assert [part.name for part in parts] == [f"model-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert not file.exists()
    found = [tensors(part) for part in parts]
    assert [list(part) for part in found] == [["a"], ["b"], ["c", "d"]]  # a larger one stands alone
    assert {name: one for part in found for name, one in part.items()} == whole
    for number, part in enumerate(parts):
        fields = {key: field.contents() for key, field in gguf.GGUFReader(part).fields.items()}
        assert (fields["split.no"], fields["split.count"], fields["split.tensors.count"]) == (number, 3, 4)
        assert fields["general.architecture"] == "llama"
        if number == 0:
            kept = {key for key in before if not key.startswith("GGUF.")}
            assert {key: fields[key] for key in kept} == {key: before[key] for key in kept}


def test_a_small_file_stays_whole(file: Path) -> None:
    before = file.read_bytes()
    assert split(file, 10_000) == [file] and file.read_bytes() == before


def test_wrong_bytes_are_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(path: Path, reader: Any, some: list[Any], number: int, count: int) -> None:
        write(path, reader, list(reversed(reader.tensors)) if number == 2 else some[:0], number, count)

    write = splitting._write
    monkeypatch.setattr(splitting, "_write", damaged)
    with pytest.raises(FormatError, match="for a is not what was split"):
        split(file, 160)
    assert file.exists()


def test_a_full_disk_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(OutputError, match=r"model-00001-of-00003\.gguf: No space left"):
        split(file, 160)
