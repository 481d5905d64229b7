"""Opening a model: what is read, and everything that a damaged or malicious folder gets instead."""

from __future__ import annotations

import gc
import json
import shutil
import struct
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.errors import ModelError
from compress.models.folder.tensor_list import INDEX
from compress.models.source import ModelSource
from tests.support.models import VOCAB, save_tiny

SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "tiny", shards=3)


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def with_header(path: Path, header: bytes, data: bytes = b"\0" * 64) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def test_every_tensor_is_read_as_safetensors_reads_it(folder: Path) -> None:
    source = ModelSource.open(folder)
    expected = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert set(source.tensors) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(source.read(name), tensor) and source.tensors[name].shape == tuple(tensor.shape)


def test_every_dtype_and_shape_is_read(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    tensors = {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
            torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn,
        )
    }  # fmt: skip
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "row": torch.arange(3)}
    save_file(tensors, folder / "model.safetensors")
    source = ModelSource.open(folder)
    for name, tensor in tensors.items():
        read = source.read(name)
        assert read.dtype == tensor.dtype and read.shape == tensor.shape
        assert torch.equal(read.double(), tensor.double())


def test_rows_and_slices(folder: Path) -> None:
    source = ModelSource.open(folder)
    name = "model.embed_tokens.weight"
    whole = source.read(name)
    assert torch.equal(source.read_rows(name, [5, 0, VOCAB - 1, 5]), whole[[5, 0, VOCAB - 1, 5]])
    assert torch.equal(source.read_slice(name, 7, 11), whole[7:11])


def test_the_fingerprint_is_of_the_model_not_of_its_files(folder: Path, tmp_path: Path) -> None:
    first = ModelSource.open(folder).fingerprint
    assert len(first) == 64 and ModelSource.open(folder).fingerprint == first
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert ModelSource.open(moved).fingerprint == first
    assert ModelSource.open(save_tiny(tmp_path / "one file")).fingerprint == first
    assert ModelSource.open(save_tiny(tmp_path / "other", seed=1)).fingerprint != first
    edit_json(moved / "config.json", lambda config: config.update(rms_norm_eps=1e-3))
    assert ModelSource.open(moved).fingerprint != first


def test_one_changed_byte_of_a_small_tensor_changes_the_fingerprint(folder: Path) -> None:
    source = ModelSource.open(folder)
    before, entry = source.fingerprint, source.tensors["model.layers.1.mlp.up_proj.weight"]
    with (folder / entry.file).open("r+b") as file:
        file.seek(entry.start + 1000)
        byte = file.read(1)
        file.seek(entry.start + 1000)
        file.write(bytes([byte[0] ^ 1]))
    assert ModelSource.open(folder).fingerprint != before


def test_a_folder_goes_by_its_own_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ModelSource.open(folder).name == ModelSource.open(str(folder)).name == "tiny"
    monkeypatch.chdir(folder)
    assert ModelSource.open(".").name == "tiny"


def test_tokenizer_and_files_to_copy(folder: Path) -> None:
    source = ModelSource.open(folder)
    assert source.tokenizer()("w7 w8")["input_ids"] == [7, 8]
    assert set(source.auxiliary_files()) == {
        "generation_config.json", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        source.tokenizer()


def test_a_tokenizer_is_loaded_once_where_that_is_asked_for_and_freed_afterwards(folder: Path) -> None:
    source = ModelSource.open(folder)
    with source.one_tokenizer():
        shared = source.tokenizer()
        assert source.tokenizer() is shared
    freed = weakref.ref(shared)
    assert source.tokenizer() is not shared
    del shared
    gc.collect()
    assert freed() is None


@pytest.mark.parametrize("content", ["[" * 100_000, "[1]", '"text"', "{not", ""])
def test_a_damaged_generation_config_is_refused_before_any_work(folder: Path, content: str) -> None:
    (folder / "generation_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"generation_config\.json .* or delete it"):
        ModelSource.open(folder)


def test_an_empty_quantization_config_describes_nothing(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {}}), encoding="utf-8")
    source = ModelSource.open(folder)
    assert not source.unpacked and not hasattr(source.config, "quantization_config")


def test_links_into_a_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "snapshot"
    linked.mkdir()
    for path in folder.iterdir():
        (linked / path.name).symlink_to(path)
    source = ModelSource.open(linked)
    assert source.fingerprint == ModelSource.open(folder).fingerprint


def damage_missing_shard(folder: Path) -> None:
    (folder / SHARD).unlink()


def damage_truncated_data(folder: Path) -> None:
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[:-10])


def damage_truncated_header(folder: Path) -> None:
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[:40])


def damage_empty(folder: Path) -> None:
    (folder / SHARD).write_bytes(b"")


def damage_huge_header(folder: Path) -> None:
    (folder / SHARD).write_bytes(struct.pack("<Q", 2**63) + b"{}")


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{not json")


def damage_index(folder: Path) -> None:
    (folder / INDEX).write_text("[]")


def damage_promise(folder: Path) -> None:
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({"ghost": SHARD}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing_shard, f"shard {SHARD} is missing"),
        (damage_truncated_data, f"shard {SHARD} is truncated: tensor"),
        (damage_truncated_header, f"shard {SHARD} is truncated"),
        (damage_empty, f"shard {SHARD} is truncated"),
        (damage_huge_header, f"shard {SHARD} is truncated or no safetensors file"),
        (damage_config, "config.json cannot be read"),
        (damage_index, "holds a list. Allowed: a JSON object"),
        (damage_promise, "promises tensor ghost"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        ModelSource.open(folder)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[1, 2]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 15]}}',
        b'{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [-8, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "F32", "shape": "4", "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "Q4", "shape": [4], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]}}',
        b'{"a": {"dtype": "U8", "shape": [], "data_offsets": [0, 1]}, "a": {}}',
        b'{"a": {"dtype": "F32", "shape": [99999999999, 99999999999], "data_offsets": [0, 16]}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_malformed_header_is_an_error_not_a_crash(folder: Path, header: bytes) -> None:
    with_header(folder / SHARD, header)
    with pytest.raises(ModelError, match="malformed header"):
        ModelSource.open(folder)


@pytest.mark.parametrize(
    "file",
    [
        "../stolen.safetensors",
        "/etc/stolen.safetensors",
        "a/b.safetensors",
        "..",
        "",
        "weights.bin",
        "a\\b.safetensors",
    ],
)
def test_an_index_cannot_leave_the_folder(folder: Path, file: str) -> None:
    save_file({"x": torch.zeros(1)}, folder.parent / "stolen.safetensors")
    edit_json(folder / INDEX, lambda index: index["weight_map"].update({"x": file}))
    with pytest.raises(ModelError, match="names the file"):
        ModelSource.open(folder)


def test_shards_without_their_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    with pytest.raises(ModelError, match="3 safetensors files but no"):
        ModelSource.open(folder)


def test_the_same_tensor_in_two_shards(folder: Path) -> None:
    shard = load_file(folder / SHARD)
    first = next(iter(load_file(folder / "model-00001-of-00003.safetensors").items()))
    save_file(shard | {first[0]: first[1] + 1}, folder / SHARD)
    assert torch.equal(ModelSource.open(folder).read(first[0]), first[1])  # the index decides
    edit_json(folder / INDEX, lambda index: index["weight_map"].pop(first[0]))
    with pytest.raises(ModelError, match=r"is in .* and in"):
        ModelSource.open(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_refused_with_the_cure(tmp_path: Path, name: str) -> None:
    folder = save_tiny(tmp_path)
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ModelError, match="pickle") as caught:
        ModelSource.open(folder)
    assert "save_pretrained" in str(caught.value)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        ModelSource.open(folder)


def test_a_folder_without_config(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        ModelSource.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantization_config": {"quant_method": "hqq", "nbits": 4}}, r"already quantised \(hqq\)"),
        ({"model_type": "no_such_thing"}, "'no_such_thing' cannot be opened"),
        ({"model_type": None}, "names no model_type"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "evil.Config"}}, "'own' cannot be opened"),
        ({"num_hidden_layers": "three"}, "'llama' cannot be opened"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = save_tiny(tmp_path)
    (folder / "evil.py").write_text("raise SystemExit('remote code was run')")
    edit_json(folder / "config.json", lambda config: config.update(change))
    with pytest.raises(ModelError, match=message):
        ModelSource.open(folder)


def test_an_architecture_that_is_no_language_model(tmp_path: Path) -> None:
    from transformers import ViTConfig

    from compress.models import skeleton

    with pytest.raises(ModelError, match="'vit' cannot be built"):
        skeleton.build(ViTConfig())


@pytest.mark.parametrize("model", ["./no/such/folder", "/no/such/folder", "a/b/c", Path("nowhere")])
def test_no_such_folder(model: str | Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        ModelSource.open(model)


def test_a_hub_id_while_offline() -> None:
    with pytest.raises(ModelError, match="hub cannot be reached") as caught:
        ModelSource.open("no-such-owner/no-such-model")
    assert "local folder" in str(caught.value)


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path)
    with pytest.raises(ModelError, match="is a file"):
        ModelSource.open(folder / "model.safetensors")


def test_a_shard_that_shrinks_after_it_was_opened(folder: Path) -> None:
    source = ModelSource.open(folder)
    name, entry = max(source.tensors.items(), key=lambda item: item[1].end)
    (folder / entry.file).write_bytes(b"")
    with pytest.raises(ModelError, match="ended early"):
        source.read(name)
    (folder / entry.file).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        source.read(name)
