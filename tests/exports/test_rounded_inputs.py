"""Formats with rounded inputs in transformers: its reader, compressed-tensors, shares no code with ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import compress
from compress.errors import OutputError
from compress.exports import export
from compress.exports import plan as planning
from tests.support.exports import packed, rounding

MLP = "model.layers.1.mlp.down_proj"


KINDS = {
    ("int", "int8"): ("int-quantized", ["weight", "weight_scale"]),
    ("fp8", "none"): ("float-quantized", ["weight", "weight_scale"]),
    ("fp8", "fp8"): ("float-quantized", ["weight", "weight_scale"]),
    ("fp8_tensor", "fp8_static"): ("float-quantized", ["input_scale", "weight", "weight_scale"]),
    ("nvfp4", "none"): ("nvfp4-pack-quantized", ["weight_global_scale", "weight_packed", "weight_scale"]),
    ("nvfp4", "nvfp4"): (
        "nvfp4-pack-quantized", ["input_global_scale", "weight_global_scale", "weight_packed", "weight_scale"],
    ),
    ("mxfp4", "none"): ("mxfp4-pack-quantized", ["weight_packed", "weight_scale"]),
    ("mxfp4", "mxfp4"): ("mxfp4-pack-quantized", ["weight_packed", "weight_scale"]),
}  # fmt: skip


def loaded(folder: Path) -> PreTrainedModel:
    """Returns the export in transformers, float32."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.hf_quantizer.compressor.decompress_model(model)
    nn.Module.float(model)  # weights in 4 bits come out as bfloat16
    return model


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("grid", "activations"), KINDS, ids=map("-".join, KINDS))
def test_transformers_computes_the_same(tmp_path: Path, grid: str, activations: str) -> None:
    ours = packed(tmp_path / "a", "qwen2", rounding(grid, activations))
    folder = export(ours.folder, "compressed-tensors")
    form, names = KINDS[grid, activations]
    quantization = json.loads((folder / "config.json").read_text())["quantization_config"]
    raw = (folder / "model-00001-of-00001.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert quantization["format"] == form
    assert sorted(name.removeprefix(f"{MLP}.") for name in header if name.startswith(f"{MLP}.")) == names
    tokens = torch.arange(12)[None]
    theirs, mine = loaded(folder), compress.load(ours.folder, dtype=torch.float32)
    with torch.no_grad():
        expected = mine(tokens).logits
        found, not_rounded = theirs(tokens).logits, ours.dense(tokens).logits
        if activations == "int8":  # exact sums here, sums in float32 there: a code may turn in the next linear
            assert apart(found, expected) < apart(not_rounded, expected)
            x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
            name = "model.layers.0.mlp.up_proj"
            assert apart(theirs.get_submodule(name)(x), mine.get_submodule(name)(x)) < 1e-6
        else:
            assert torch.equal(found, expected)
    assert torch.equal(not_rounded, expected) is (activations == "none")


def test_the_rounding_of_inputs_is_what_the_configuration_says(tmp_path: Path) -> None:
    ours = packed(tmp_path / "a", "llama", rounding("fp8", "fp8"))
    folder = export(ours.folder, "compressed-tensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["input_activations"] = None
    (folder / "config.json").write_text(json.dumps(config))
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        found = loaded(folder)(tokens).logits
        assert torch.equal(found, ours.dense(tokens).logits)
        assert apart(found, compress.load(ours.folder, dtype=torch.float32)(tokens).logits) > 1e-3


@pytest.mark.parametrize("to", ["gptq", "awq", "mlx", "aqlm"])
def test_other_targets_refuse(tmp_path: Path, to: str) -> None:
    integers = packed(tmp_path / "a", "llama", rounding("int", "int8"))
    with pytest.raises(OutputError, match="int_group.v1 has no" if to == "aqlm" else "inputs are rounded to int8"):
        export(integers.folder, to)
    floats = packed(tmp_path / "b", "llama", rounding("nvfp4", "none"))
    with pytest.raises(OutputError, match=r"float_group\.v1 has no counterpart"):
        export(floats.folder, to)


def test_a_dense_export_says_that_inputs_are_no_longer_rounded(tmp_path: Path) -> None:
    ours = packed(tmp_path / "a", "llama", rounding("mxfp4", "mxfp4"))
    plan = planning.make(ours.folder, "dense", allow_dense=False, dense_dtype="bfloat16")
    assert any("14 decoded linears with inputs that are not rounded" in text for text in plan.warnings)


def test_formats_side_by_side(tmp_path: Path) -> None:
    """Attention in NVFP4, the rest in FP8: two groups of linears with a format each."""
    nvfp4, fp8 = rounding("nvfp4", "nvfp4"), rounding("fp8", "fp8")
    ours = packed(tmp_path / "a", "llama", lambda w_NK: (nvfp4 if w_NK.shape[1] == 64 else fp8)(w_NK))
    folder = export(ours.folder, "compressed-tensors")
    quantization = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert quantization["format"] == "mixed-precision"
    found = {group["format"]: group["targets"] for group in quantization["config_groups"].values()}
    assert found["float-quantized"] == [r"re:^model\.layers\.\d+\.mlp\.down_proj$"]
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        expected = compress.load(ours.folder, dtype=torch.float32)(tokens).logits
        assert torch.equal(loaded(folder)(tokens).logits, expected)


def test_joined_linears_with_other_inputs_are_refused(tmp_path: Path) -> None:
    rounded, plain = rounding("mxfp4", "mxfp4"), rounding("mxfp4", "none")
    ours = packed(tmp_path / "a", "llama", lambda w_NK: (rounded if len(w_NK) == 32 else plain)(w_NK))
    with pytest.raises(OutputError, match=r"q_proj 4 bits e2m1, scales e8m0; k_proj 4 bits .*, inputs mxfp4"):
        export(ours.folder, "compressed-tensors")


@pytest.mark.parametrize("grid", ["fp8", "nvfp4"])
def test_experts_with_weights_in_floats(tmp_path: Path, grid: str) -> None:
    """Gate and up of an expert lie in one packed linear, whose rows become two; what is written is decoded again."""
    ours = packed(tmp_path / "a", "mixtral", rounding(grid, "none"))
    folder = export(ours.folder, "compressed-tensors")
    raw = (folder / "model-00001-of-00001.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    name = "weight" if grid == "fp8" else "weight_packed"
    (expert,) = (one for one in header if one.endswith(f"layers.1.block_sparse_moe.experts.3.w1.{name}"))
    assert header[expert]["shape"] == [96, 64 if grid == "fp8" else 32]
