"""What an export copies, records and refuses; nothing half written stays behind."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compress.cli import invoke
from compress.errors import CompressError, FormatError, OutputError
from compress.exports import export
from compress.exports import plan as planning
from compress.format import layouts
from tests.support.exports import affine, books, integers, packed, stream


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return packed(tmp_path / "packed", "llama", integers(4, 32)).folder


def test_the_record_says_what_became_of_every_tensor(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    made = export(folder, "compressed-tensors", tmp_path / "out")
    record = json.loads((made / "compress_export.json").read_text())
    assert set(record["tensors"]) == set(json.loads((folder / "compress.json").read_text())["tensors"])
    assert {one["outcome"] for one in record["tensors"].values()} == {"lossless"}
    assert sorted(path.name for path in made.iterdir()) == [
        "README.md", "compress_export.json", "config.json", "model-00001-of-00001.safetensors",
        "model.safetensors.index.json", "tokenizer.json",
    ]  # fmt: skip
    assert str(tmp_path) not in (made / "README.md").read_text() + (made / "compress_export.json").read_text()


def test_the_bytes_depend_on_the_checkpoint_alone(folder: Path, tmp_path: Path) -> None:
    one, other = export(folder, "mlx", tmp_path / "one"), export(folder, "mlx", tmp_path / "other")
    assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in other.iterdir()}


def test_many_files_hold_the_same_tensors(folder: Path, tmp_path: Path) -> None:
    made = export(folder, "gptq", tmp_path / "out", max_shard_size="20kB")
    index = json.loads((made / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1 and set(index.values()) == {p.name for p in made.glob("*.safetensors")}


@pytest.mark.parametrize("to", ["compressed-tensors", "mlx", "gptq", "awq", "dense"])
def test_the_plan_knows_the_size(folder: Path, tmp_path: Path, to: str) -> None:
    plan = planning.make(folder, to, allow_dense=False, dense_dtype="bfloat16")
    made = export(folder, to, tmp_path / "out", dense_dtype="bfloat16")
    index = json.loads((made / "model.safetensors.index.json").read_text())
    tensors = [one for path in made.glob("*.safetensors") for one in load_file(path).values()]
    assert plan.size_bytes == sum(one.numel() * one.element_size() for one in tensors)
    assert len(index["weight_map"]) == len(tensors)


def test_dense_weights_need_leave(tmp_path: Path) -> None:
    mixed = packed(
        tmp_path / "a", "llama", lambda w_NK: (integers(4, 32) if len(w_NK) == 64 else books(1, 4))(w_NK), "mlp"
    )
    with pytest.raises(OutputError, match=r"additive.v1 has no counterpart.*--allow-dense"):
        export(mixed.folder, "awq")
    made = export(mixed.folder, "awq", allow_dense=True, dense_dtype="bfloat16")
    record = json.loads((made / "compress_export.json").read_text())
    assert record["tensors"]["model.layers.0.self_attn.k_proj"]["outcome"] == "dense"
    skipped = json.loads((made / "config.json").read_text())["quantization_config"]["modules_to_not_convert"]
    assert "model.layers.0.self_attn.k_proj" in skipped and "model.layers.0.self_attn.q_proj" not in skipped


def test_what_a_target_cannot_hold_is_rounded_again_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = packed(
        tmp_path / "a", "mixtral", lambda w_NK: (books(1, 4) if len(w_NK) in (32, 192) else integers(4, 32))(w_NK)
    )
    command = ["export", str(mixed.folder), "--to", "compressed-tensors", "--requantise", "4", "-o"]
    assert invoke([*command, str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "rounded    20 × 4 bits, a second loss: the layout additive.v1" in shown and "of rounding again" in shown
    record = json.loads((tmp_path / "out" / "compress_export.json").read_text())["tensors"]
    assert record["model.layers.0.self_attn.q_proj"] == {"outcome": "lossless", "stored_as": "4 bits, groups of 32"}
    up = record["model.layers.0.block_sparse_moe.experts.1.w3"]
    weight = layouts.unpack(mixed.linears["model.layers.0.mlp.experts.q_gate_up_proj.1"])[96:]
    found = load_file(tmp_path / "out" / "model-00001-of-00001.safetensors")
    name = "model.layers.0.block_sparse_moe.experts.1.w3"
    codes = stream(found[f"{name}.weight_packed"].numpy(), 4, 64)
    again = torch.from_numpy(affine(codes, found[f"{name}.weight_scale"].numpy(), 8))
    error = float((weight - again).double().square().sum() / weight.double().square().sum())
    assert up["outcome"] == "requantised" and up["relative_error"] == pytest.approx(error) and 0 < error < 0.02
    with pytest.raises(OutputError, match="requantise=9"):
        export(mixed.folder, "mlx", requantise=9)


def test_a_gguf_may_be_dense_as_a_whole(tmp_path: Path) -> None:
    ours = packed(tmp_path / "a", "llama", books(1, 4))
    with pytest.raises(OutputError, match=r"gguf can hold none of the 14.*Give --allow-dense"):
        planning.make(ours.folder, "gguf", allow_dense=False, dense_dtype="float32")
    assert len(planning.make(ours.folder, "gguf", allow_dense=True, dense_dtype="float32").decoded) == 14
    with pytest.raises(OutputError, match=r"or --to dense"):
        planning.make(ours.folder, "awq", allow_dense=True, dense_dtype="float32")


@pytest.mark.parametrize(
    ("kind", "to", "bits", "message"),
    [
        ("llama", "awq", 3, "none of the 14 packed linears: codes have 4 bits there"),
        ("llama", "gptq", 6, "codes are symmetric and have 2, 3, 4, 8 bits there"),
        ("llama", "mlx", 7, "codes have 2, 3, 4, 5, 6, 8 bits there"),
        ("llama", "aqlm", 4, "int_group.v1 has no counterpart"),
        ("gpt2", "compressed-tensors", 4, "do not know Conv1D"),
        ("llama", "ollama", 4, "unknown target 'ollama'"),
    ],
)
def test_what_a_target_cannot_hold_is_refused(tmp_path: Path, kind: str, to: str, bits: int, message: str) -> None:
    ours = packed(tmp_path / "a", kind, integers(bits, 32))
    with pytest.raises(OutputError, match=message):
        export(ours.folder, to)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_folders_that_are_no_checkpoint_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        export(folder, "mlx", folder)
    (folder / "compress.json").unlink()  # as a run leaves it that was stopped
    for wrong in (folder, tmp_path / "nowhere"):
        with pytest.raises(CompressError):
            export(wrong, "mlx")
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_an_export_is_no_checkpoint(folder: Path, tmp_path: Path) -> None:
    export(folder, "mlx", tmp_path / "out")
    with pytest.raises(FormatError, match="is an export for another program"):
        export(tmp_path / "out", "awq")


def test_a_damaged_shard_is_found_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    shard = next(folder.glob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(FormatError, match="is damaged"):
        export(folder, "mlx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written_stays(
    folder: Path, tmp_path: Path, problem: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise problem

    monkeypatch.setattr(os, "write", fail)
    expected = OutputError if isinstance(problem, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        export(folder, "mlx", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]


def test_scales_in_another_dtype_than_the_model_are_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    plan = planning.make(folder, "compressed-tensors", allow_dense=False, dense_dtype="float32")
    assert "dtype float16" in plan.warnings[0]


def test_readers_of_older_configurations_find_the_rotary_base(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
    (folder / "config.json").write_text(json.dumps(config))
    found = json.loads((export(folder, "mlx", tmp_path / "out") / "config.json").read_text())
    assert found["rope_theta"] == 5e5 and found["rope_scaling"] == {"rope_type": "linear", "factor": 2.0}


def test_readers_of_older_configurations_find_both_bases_of_gemma_3(tmp_path: Path) -> None:
    source = packed(tmp_path / "a", "gemma3", integers(4, 32)).folder
    config = json.loads((source / "config.json").read_text())
    config["rope_parameters"] = {
        "full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    (source / "config.json").write_text(json.dumps(config))
    found = json.loads((export(source, "mlx", tmp_path / "out") / "config.json").read_text())
    assert found["rope_theta"] == 5e5 and found["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert found["rope_local_base_freq"] == 2e4


def test_settings_with_two_names_have_both(tmp_path: Path) -> None:
    ours = packed(tmp_path / "a", "qwen3_moe", integers(4, 32))  # transformers 5 writes num_local_experts, others read
    config = json.loads((export(ours.folder, "mlx") / "config.json").read_text())
    assert config["num_experts"] == config["num_local_experts"] == 4


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(folder), "--to", "compressed-tensors", "-o", str(tmp_path / "out")]
    assert invoke([*command, "--dry-run"]) == 0
    assert "lossless   14 linears, codes unchanged: 14 × 4 bits, groups of 32" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert invoke(command) == 0 and (tmp_path / "out" / "config.json").exists()
    assert "written" in capsys.readouterr().out
    assert invoke(["export", str(folder), "--to", "mlxx"]) == 2
    assert "did you mean 'mlx'?" in capsys.readouterr().err


def test_the_function_stays_callable_where_its_package_is_imported() -> None:
    """A submodule takes the place of a name that its package resolves on first use."""
    import compress

    importlib.import_module("compress.exports.plan")
    assert callable(compress.export)
