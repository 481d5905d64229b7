"""The writer: the same bytes every time, whole files or none, and the manifest last."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compress.errors import FormatError, OutputError
from compress.format import manifest, naming, scheme_table
from compress.format.reader import open_checkpoint
from compress.format.writer import CheckpointWriter, ShardRecord
from compress.methods import rtn
from tests.support import format_folders
from tests.support.digests import digests


def test_safetensors_reads_back_what_was_written(tmp_path: Path) -> None:
    format_folders.write(tmp_path)
    first = load_file(tmp_path / "model-00001-of-00002.safetensors")
    assert first.keys() == format_folders.dense().keys()
    for name, tensor in format_folders.dense().items():
        assert first[name].dtype == tensor.dtype and torch.equal(first[name], tensor)
    second = load_file(tmp_path / "model-00002-of-00002.safetensors")
    for name, tensor in naming.plane_tensors(format_folders.packed()).items():
        assert second[name].dtype == tensor.dtype and torch.equal(second[name], tensor)


def test_every_tensor_is_aligned_to_its_elements(tmp_path: Path) -> None:
    format_folders.write(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        raw = path.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        assert (8 + size) % 8 == 0
        header = json.loads(raw[8 : 8 + size])
        assert header.pop("__metadata__") == {"format": "pt"}
        widths = {"F64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "U16": 2, "BOOL": 1}
        assert all(entry["data_offsets"][0] % widths[entry["dtype"]] == 0 for entry in header.values())


def test_the_same_input_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    format_folders.write(tmp_path / "here")
    code = "import pathlib, sys; from tests.support import format_folders as f; f.write(pathlib.Path(sys.argv[1]))"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, env=environment, cwd=tmp_path)
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


def test_the_order_and_memory_layout_of_the_tensors_do_not_matter(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4, dtype=torch.int32)}
    other = {"b": tensors["b"].clone(), "a": tensors["a"].T.contiguous().T}
    one = CheckpointWriter(tmp_path / "1", shard_count=1).write_shard(0, tensors)
    assert CheckpointWriter(tmp_path / "2", shard_count=1).write_shard(0, other) == one


def test_the_bytes_of_a_shard_are_these(tmp_path: Path) -> None:
    """Golden: never edited, or resumed runs and recorded sha256 sums would stop to mean anything."""
    tensors = {"b": torch.tensor([1, -1], dtype=torch.int32), "a": torch.tensor([1.0]).half()}
    record = CheckpointWriter(tmp_path, shard_count=1).write_shard(0, tensors)
    header = (
        b'{"__metadata__":{"format":"pt"},"b":{"dtype":"I32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F16","shape":[1],"data_offsets":[8,10]}}'
    )
    header += b" " * (-len(header) % 8)
    expected = len(header).to_bytes(8, "little") + header + bytes.fromhex("01000000ffffffff003c")
    assert (tmp_path / record.file).read_bytes() == expected
    assert record.size_bytes == len(expected) and record.sha256 == hashlib.sha256(expected).hexdigest()


def test_finish_writes_what_readers_and_transformers_need(tmp_path: Path) -> None:
    (tmp_path / "source/chat").mkdir(parents=True)
    (tmp_path / "source/tokenizer.json").write_text("{}")
    (tmp_path / "source/chat/a.jinja").write_text("x")
    folder = tmp_path / "out"
    writer = CheckpointWriter(folder, shard_count=2)
    records = format_folders.shards(writer)
    (folder / "model-00003-of-00009.safetensors.partial").touch()
    auxiliary = {name: tmp_path / "source" / name for name in ("tokenizer.json", "chat/a.jinja")}
    given = format_folders.manifest()
    writer.finish(records=records[::-1], config=format_folders.CONFIG, manifest=given, auxiliary=auxiliary)
    assert given == format_folders.manifest() and "quantization_config" not in format_folders.CONFIG
    assert not list(folder.rglob("*.partial"))
    assert (folder / "chat/a.jinja").read_text() == "x" and (folder / "tokenizer.json").read_text() == "{}"
    config = json.loads((folder / manifest.CONFIG).read_text())
    assert config["hidden_size"] == 32 and config["quantization_config"] == {
        "quant_method": "compress", "format_version": 2, "tensors": scheme_table.shorten(given["tensors"]),
    }  # fmt: skip
    index = json.loads((folder / manifest.INDEX).read_text())
    assert index["weight_map"] == {name: record.file for record in records for name in record.tensors}
    written = json.loads((folder / manifest.MANIFEST).read_text())
    assert written["warnings"] == [] and [shard["file"] for shard in written["shards"]] == [r.file for r in records]
    assert str(tmp_path) not in (folder / manifest.MANIFEST).read_text()


def test_the_manifest_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[str] = []
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        renamed.append(Path(target).name)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    format_folders.write(tmp_path)
    assert renamed[-1] == manifest.MANIFEST and len(renamed) == 5


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_at_whatever_call_the_disk_is_full_nothing_half_written_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)
    for allowed in range(40):
        folder, left = tmp_path / f"{call}-{allowed}", [allowed]

        def failing(*arguments: Any, left: list[int] = left) -> Any:
            if left[0] == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] -= 1
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                format_folders.write(folder)
                break
            except OutputError as error:
                assert "No space left on device" in str(error) and "finished work is kept" in str(error)
        if (folder / manifest.MANIFEST).exists():  # only the very last sync failed: all files are whole
            assert (call, allowed) == ("fsync", 9)
        else:
            with pytest.raises(FormatError):
                open_checkpoint(folder)
            format_folders.write(folder)  # the same again, with room
        open_checkpoint(folder).verify()
    else:
        pytest.fail("the run never got through")
    assert allowed >= 5


_SHORT = """
import resource, sys, torch
from compress.errors import OutputError
from compress.format.writer import CheckpointWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
try:
    CheckpointWriter(sys.argv[1], shard_count=1).write_shard(0, {"a": torch.zeros(600)})
except OutputError as error:
    print(error)
"""


def test_a_write_that_the_system_cuts_short_is_an_output_error(tmp_path: Path) -> None:
    """In a process of its own: the limit would hold for the report of the tests too."""
    done = subprocess.run([sys.executable, "-c", _SHORT, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot make the folder"):
        CheckpointWriter(tmp_path / "file" / "out", shard_count=1)


def test_a_finished_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    format_folders.write(tmp_path)
    with pytest.raises(OutputError, match="already holds a finished checkpoint"):
        CheckpointWriter(tmp_path, shard_count=2)


def test_records_survive_json_and_tell_whether_the_file_is_still_theirs(tmp_path: Path) -> None:
    record = format_folders.write(tmp_path)[0]
    again = ShardRecord.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again == record and again.matches(tmp_path)
    path = tmp_path / record.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert not again.matches(tmp_path)
    path.write_bytes(whole[:-1])
    assert not again.matches(tmp_path)
    path.unlink()
    assert not again.matches(tmp_path)


@pytest.mark.parametrize("data", [{}, {"file": "x"}, {"file": "x", "size_bytes": 1, "sha256": "", "tensors": {"a": 1}}])
def test_a_damaged_record_is_a_format_error(data: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="record is damaged"):
        ShardRecord.from_dict(data)


def test_finish_refuses_what_does_not_fit_together(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, shard_count=2)
    first, second = format_folders.shards(writer)
    content = format_folders.manifest()

    def finish(records: list[ShardRecord], content: dict[str, Any], auxiliary: tuple[str, ...] = ()) -> None:
        files = {name: tmp_path / name for name in auxiliary}
        writer.finish(records=records, config={}, manifest=content, auxiliary=files)

    with pytest.raises(FormatError, match="records of 1 shards"):
        finish([first], content)
    wrong = {name: {**entry, "bias": True} for name, entry in content["tensors"].items()}
    with pytest.raises(FormatError, match="down: its bias was not written"):
        finish([first, second], {"tensors": wrong})
    wrong = {name: {**entry, "shape": [64, 32]} for name, entry in content["tensors"].items()}
    with pytest.raises(FormatError, match="up: plane 'weight' was written as"):
        finish([first, second], {"tensors": wrong})
    with pytest.raises(FormatError, match="plane 'weight' was written as None"):
        finish([first, second], {"tensors": content["tensors"] | {"x": content["tensors"]["model.layers.0.up"]}})
    with pytest.raises(OutputError, match=r"config\.json would overwrite"):
        finish([first, second], content, ("config.json",))
    with pytest.raises(OutputError, match=r"\.\./stolen would overwrite"):
        finish([first, second], content, ("../stolen",))
    with pytest.raises(FormatError, match="is stored in both"):
        finish([first, ShardRecord(second.file, second.size_bytes, second.sha256, first.tensors)], content)
    (tmp_path / first.file).unlink()
    with pytest.raises(FormatError, match="is not in"):
        finish([first, second], content)
    assert not (tmp_path / manifest.MANIFEST).exists()


def test_dtypes_that_no_reader_knows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"a is torch\.complex64"):
        CheckpointWriter(tmp_path, shard_count=1).write_shard(0, {"a": torch.zeros(2, dtype=torch.complex64)})


def test_experts_get_guards_and_must_be_whole(tmp_path: Path) -> None:
    solved = rtn.solve(torch.randn(4, 8), None, rtn.Config())
    packed = {f"m.experts.q_down_proj.{e}": solved for e in (0, 1)}
    writer = CheckpointWriter(tmp_path, shard_count=1)
    record = writer.write_shard(0, naming.plane_tensors(packed))
    assert record.tensors["m.experts.down_proj"] == ("I8", (1,))
    entry = {"scheme": solved.scheme.to_dict(), "shape": [4, 8], "bias": False}
    with pytest.raises(FormatError, match=r"m\.experts: q_down_proj holds the experts \[1\] only"):
        writer.finish(records=[record], config={}, manifest={"tensors": {"m.experts.q_down_proj.1": entry}})


def test_a_weight_whose_codes_have_its_shape_is_refused(tmp_path: Path) -> None:
    """Stock transformers could not tell the codes of a [N, 1] weight from the weight."""
    solved = rtn.solve(torch.randn(4, 1), None, rtn.Config())
    writer = CheckpointWriter(tmp_path, shard_count=1)
    record = writer.write_shard(0, naming.plane_tensors({"a": solved}))
    entry = {"scheme": solved.scheme.to_dict(), "shape": [4, 1], "bias": False}
    with pytest.raises(FormatError, match="have the same shape as the weight"):
        writer.finish(records=[record], config={}, manifest={"tensors": {"a": entry}})
