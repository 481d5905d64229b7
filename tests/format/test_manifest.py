"""compress.json is not trusted: every field a reader uses is checked before it is used."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.errors import FormatError
from compress.format import layouts
from compress.format import manifest as module

NAME = "model.layers.0.self_attn.q_proj"


def read(folder: Path, content: Any) -> dict[str, Any]:
    (folder / module.MANIFEST).write_text(json.dumps(content))
    return module.read_manifest(folder)


def test_a_good_manifest_is_returned_whole(manifest: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, manifest) == manifest
    assert read(tmp_path, manifest | {"a later field": 1})["a later field"] == 1


def test_only_the_required_fields_are_required(manifest: dict[str, Any], tmp_path: Path) -> None:
    least = {field: manifest[field] for field in module.REQUIRED}
    least["tensors"] = {
        name: {field: entry[field] for field in module.TENSOR_REQUIRED} for name, entry in manifest["tensors"].items()
    }
    assert read(tmp_path, least) == least


@pytest.mark.parametrize("version", [4, 10**9])
def test_a_newer_format_says_to_update(manifest: dict[str, Any], tmp_path: Path, version: int) -> None:
    with pytest.raises(FormatError, match=rf"format version {version}, this package reads up to 3\. Update it"):
        read(tmp_path, manifest | {"format_version": version})


@pytest.mark.parametrize("version", [0, -1, True, "1", None, 1.0])
def test_a_version_that_is_none_is_refused(manifest: dict[str, Any], tmp_path: Path, version: object) -> None:
    with pytest.raises(FormatError, match="format_version is"):
        read(tmp_path, manifest | {"format_version": version})


@pytest.mark.parametrize("field", module.REQUIRED[1:])
def test_a_missing_field_is_named(manifest: dict[str, Any], tmp_path: Path, field: str) -> None:
    del manifest[field]
    with pytest.raises(FormatError, match=f"lacks {field}"):
        read(tmp_path, manifest)


@pytest.mark.parametrize("field", module.TENSOR_REQUIRED)
def test_a_missing_field_of_a_tensor_is_named_with_its_layer(
    manifest: dict[str, Any], tmp_path: Path, field: str
) -> None:
    del manifest["tensors"][NAME][field]
    with pytest.raises(FormatError, match=f"{NAME}: .* lacks {field}"):
        read(tmp_path, manifest)


BAD_TENSORS = [
    {"shape": [64]},
    {"shape": [64, -1]},
    {"shape": [64, 0]},
    {"shape": [64, 1.5]},
    {"shape": [True, True]},
    {"shape": "64x32"},
    {"bias": 0},
    {"scheme": None},
    {"scheme": {"layout": "spqr.v1", "bits": 3}},
    {"scheme": {"layout": "spqr.v1", "bits": "3", "group_size": 16}},
    {"scheme": {"layout": "spqr.v1", "bits": 3, "group_size": 16, "options": []}},
    {"scheme": {"layout": "spqr.v2", "bits": 3, "group_size": 16, "options": {}}},
    {"scheme": {"layout": "../../spqr.v1", "bits": 3, "group_size": 16, "options": {}}},
]


@pytest.mark.parametrize("change", BAD_TENSORS, ids=str)
def test_ill_typed_tensors_are_refused(manifest: dict[str, Any], tmp_path: Path, change: dict[str, Any]) -> None:
    manifest["tensors"] = copy.deepcopy(manifest["tensors"])
    manifest["tensors"][NAME].update(change)
    with pytest.raises(FormatError):
        read(tmp_path, manifest)


BAD_SHARDS = [
    {"file": "../model-00001-of-00001.safetensors"},
    {"file": "/etc/passwd"},
    {"file": "pytorch_model.bin"},
    {"file": 7},
    {"size_bytes": -1},
    {"size_bytes": "2112"},
    {"sha256": "0" * 63},
    {"sha256": None},
]


@pytest.mark.parametrize("change", BAD_SHARDS, ids=str)
def test_ill_typed_shards_are_refused(manifest: dict[str, Any], tmp_path: Path, change: dict[str, Any]) -> None:
    manifest["shards"][0].update(change)
    with pytest.raises(FormatError):
        read(tmp_path, manifest)


def test_no_shards_or_one_twice_are_refused(manifest: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="names a file twice"):
        read(tmp_path, manifest | {"shards": manifest["shards"] * 2})
    with pytest.raises(FormatError, match="not a list"):
        read(tmp_path, manifest | {"shards": []})


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\x00\xff"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / module.MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError):
        module.read_manifest(tmp_path)


def test_a_folder_without_manifest_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="there is no folder"):
        module.read_manifest(tmp_path / "nowhere")
    with pytest.raises(FormatError, match="a folder that compress has written"):
        module.read_manifest(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors.partial").touch()
    with pytest.raises(FormatError, match=r"did not finish.*Run the same command again"):
        module.read_manifest(tmp_path)


def test_known_layouts_are_those_that_can_be_imported() -> None:
    assert set(module.known_layouts()) >= {"int_group.v1", "spqr.v1"}
    for layout in module.known_layouts():
        assert layout == layouts.layout_module(layout).LAYOUT


def test_reading_a_manifest_imports_no_torch(manifest: dict[str, Any], tmp_path: Path) -> None:
    read(tmp_path, manifest)
    code = (
        "import sys; from compress.format.manifest import read_manifest; read_manifest(sys.argv[1]); "
        "print(sorted({'torch', 'numpy', 'safetensors', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
