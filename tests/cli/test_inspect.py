"""`compress inspect`: figures of the manifest, as a table and as JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compress.cli import invoke


@pytest.fixture
def folder(tmp_path: Path, manifest: dict[str, Any]) -> str:
    manifest["warnings"] = ["1 expert saw no token"]
    (tmp_path / "compress.json").write_text(json.dumps(manifest), encoding="utf-8")
    return str(tmp_path)


def test_the_table_has_every_layer_and_the_sum(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["inspect", folder]) == 0
    shown = capsys.readouterr().out
    row = next(line for line in shown.splitlines() if line.startswith("model.layers.0.self_attn.q_proj")).split()
    assert row[1:] == ["64×32", "3b", "g16", "4.125", "17", "4.2e-03", "1.06", "kB"]
    total = next(line for line in shown.splitlines() if line.startswith("2 linears")).split()
    assert total[2:] == ["4,096", "4.125", "20", "2.11", "kB"]
    assert "100.0 % of the decoder's linear parameters, 50.0 % of all 8,192" in shown
    assert "left dense: embedding 4,096" in shown
    assert "warning: 1 expert saw no token" in shown


def test_json_has_the_same_figures(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["inspect", folder, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [layer["outliers"] for layer in data["layers"]] == [17, 3]
    assert data["warnings"] == ["1 expert saw no token"]


def test_only_what_a_reader_needs_is_required(
    tmp_path: Path, manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder written by another tool after docs/FORMAT.md has no figures of ours."""
    needed = ("scheme", "shape", "bias")
    tensors = {name: {key: entry[key] for key in needed} for name, entry in manifest["tensors"].items()}
    bare = {"format_version": 1, "tensors": tensors, "shards": manifest["shards"]}
    (tmp_path / "compress.json").write_text(json.dumps(bare), encoding="utf-8")
    assert invoke(["inspect", str(tmp_path)]) == 0
    assert "2 linears" in capsys.readouterr().out


def _places(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yields the keys that lead to every value of a JSON document but the document itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from _places(inner, (*place, key))


@pytest.mark.parametrize("value", ["x", 5, [5], {"a": 5}, None, float("nan")], ids=str)
def test_whatever_a_field_holds_there_is_a_table_or_one_error(
    value: Any, tmp_path: Path, manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest["history"] = [{"source": {"model": "m"}, "recipe": {"stages": [{"method": "svd_llm", "options": {}}]}}]
    for place in list(_places(manifest)):
        damaged = copy.deepcopy(manifest)
        parent = damaged
        for key in place[:-1]:
            parent = parent[key]  # type: ignore[index]
        parent[place[-1]] = value  # type: ignore[index]
        (tmp_path / "compress.json").write_text(json.dumps(damaged), encoding="utf-8")
        code = invoke(["inspect", str(tmp_path)])
        said = capsys.readouterr()
        assert (code == 0 and said.out) or (code == 2 and said.err.startswith("Error: ")), place


def test_a_folder_of_a_newer_version_is_refused(
    tmp_path: Path, manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "compress.json").write_text(json.dumps({**manifest, "format_version": 4}), encoding="utf-8")
    assert invoke(["inspect", str(tmp_path)]) == 2
    assert "format version 4" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["source", "coverage", "warnings", "history", "pruning", "tensors"])
def test_information_of_a_wrong_type_is_left_out_with_a_warning(
    folder: str, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(folder) / "compress.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if field == "tensors":
        next(iter(manifest["tensors"].values()))["size_bytes"] = "many"
    else:
        manifest[field] = 7
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert invoke(["inspect", folder]) == 0
    shown = " ".join(capsys.readouterr().out.split())  # lines wrap where the terminal ends
    assert f"warning: compress.json: left out {field}" in shown
    assert invoke(["inspect", folder, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"]


@pytest.mark.parametrize("options", [{"rank": 2}, {"values": 3}, {"rank": 2, "left": {}, "right": {}}])
def test_a_composite_scheme_without_its_parts_is_an_error(
    folder: str, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(folder) / "compress.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    next(iter(manifest["tensors"].values()))["scheme"]["options"] = options
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert invoke(["inspect", folder]) == 2
    assert "a scheme lacks the field" in capsys.readouterr().err
