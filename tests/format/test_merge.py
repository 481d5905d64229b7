"""Joined shards: the bytes of one file of all tensors, up to the size that is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compress.errors import OutputError
from compress.format import files, merge
from compress.format.writer import CheckpointWriter, ShardRecord

TENSORS = [
    {"embed.weight": torch.arange(12).view(3, 4).bfloat16(), "norm": torch.ones(4, dtype=torch.float64)},
    {"h.0.up.weight": torch.arange(6, dtype=torch.int32).view(2, 3), "h.0.up.scale": torch.ones(2, 1).half()},
    {"h.1.up.weight": torch.arange(6, dtype=torch.int32).view(2, 3) * 7, "h.1.empty": torch.zeros(0, 3)},
]


@pytest.fixture
def records(tmp_path: Path) -> list[ShardRecord]:
    writer = CheckpointWriter(tmp_path, shard_count=3)
    return [writer.write_shard(index, tensors) for index, tensors in enumerate(TENSORS)]


def test_the_bytes_are_those_of_one_file_written_at_once(tmp_path: Path, records: list[ShardRecord]) -> None:
    (merged,) = merge.merge(tmp_path, records, 1 << 20)
    everything = {name: tensor for tensors in TENSORS for name, tensor in tensors.items()}
    size, sha256, described = files.write_tensors(tmp_path / "expected", everything)
    assert merged == ShardRecord("model-00001-of-00001.safetensors", size, sha256, described)
    assert (tmp_path / merged.file).read_bytes() == (tmp_path / "expected").read_bytes()
    assert all(record.matches(tmp_path) for record in records), "a run that is killed needs them"


def test_no_file_is_larger_than_allowed_but_a_shard_by_itself(tmp_path: Path, records: list[ShardRecord]) -> None:
    sizes = [record.size_bytes for record in records]
    two = merge.merge(tmp_path, records, sizes[0] + sizes[1])
    assert [list(record.tensors) for record in two] == [
        ["norm", "h.0.up.weight", "embed.weight", "h.0.up.scale"], ["h.1.empty", "h.1.up.weight"],
    ]  # fmt: skip
    assert all(record.matches(tmp_path) and record.size_bytes <= sizes[0] + sizes[1] for record in two)
    assert merge.merge(tmp_path, records, 1) == records
    merge.remove_parts(tmp_path, records, [record.file for record in two])
    assert sorted(path.name for path in tmp_path.iterdir()) == [record.file for record in two]


def test_a_shard_that_lost_bytes_meanwhile_is_an_error(tmp_path: Path, records: list[ShardRecord]) -> None:
    path = tmp_path / records[1].file
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(OutputError, match="ended early"):
        merge.merge(tmp_path, records, 1 << 20)
    assert not (tmp_path / "model-00001-of-00001.safetensors").exists(), "nothing but a partial file"
