"""The bytes of every target, decoded by readers that share no code with the package: the same weights, bit for bit."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.errors import FormatError, OutputError
from compress.exports import compressed_tensors, export, gptq
from tests.support.exports import affine, books, integers, meaning, packed, stored, stream

MLP = "model.layers.1.mlp.down_proj"


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("symmetric", "group"), [(True, 32), (False, 16), (True, None)])
def test_compressed_tensors(tmp_path: Path, bits: int, symmetric: bool, group: int | None) -> None:
    ours = packed(tmp_path / "a", "llama", integers(bits, group, symmetric=symmetric))
    folder = export(ours.folder, "compressed-tensors")
    for name in ours.linears:
        found = stored(folder, name)
        rows, columns = found["weight_shape"]
        zero: Any = 1 << (bits - 1)
        if not symmetric:
            zero = stream(np.ascontiguousarray(found["weight_zero_point"].T), bits, rows).T
        codes = stream(found["weight_packed"], bits, columns)
        assert np.array_equal(affine(codes, found["weight_scale"], zero), meaning(ours.linears, name))
    quantization = config_of(folder)["quantization_config"]
    weights = [each["weights"] for each in quantization["config_groups"].values()]
    assert {(w["num_bits"], w["symmetric"]) for w in weights} == {(bits, symmetric)}
    assert quantization.get("dequantize", False) is not symmetric


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_transformers_reads_compressed_tensors(tmp_path: Path, kind: str, symmetric: bool) -> None:
    """With the package compressed-tensors, whose reader is not ours; float32 scales make its zero points exact, too."""
    from transformers import AutoModelForCausalLM

    scale = torch.float16 if symmetric else torch.float32
    ours = packed(tmp_path / "a", kind, integers(4, 32, symmetric=symmetric, scale=scale))
    folder = export(ours.folder, "compressed-tensors")
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
        assert torch.equal(found, ours.dense(tokens).logits)


EXPERTS = {"mixtral": "block_sparse_moe.experts.3.w3", "qwen3_moe": "mlp.experts.3.up_proj"}


@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.parametrize("to", ["compressed-tensors", "mlx", "awq", "gptq"])
def test_experts_have_the_names_of_the_hub(tmp_path: Path, kind: str, to: str) -> None:
    """Gate and up of an expert are one packed linear here and two matrices there."""
    ours = packed(tmp_path / "a", kind, integers(4, 32, symmetric=to == "gptq"))
    folder = export(ours.folder, to, allow_dense=True)
    name = f"model.layers.1.{EXPERTS[kind]}"
    record = json.loads((folder / "compress_export.json").read_text())["tensors"]
    assert record[name]["outcome"] == "lossless" and not any("q_gate_up_proj" in each for each in record)
    if to == "compressed-tensors":
        found = stored(folder, name)
        rows, columns = found["weight_shape"]
        zero = stream(np.ascontiguousarray(found["weight_zero_point"].T), 4, rows).T
        weight = affine(stream(found["weight_packed"], 4, columns), found["weight_scale"], zero)
        assert np.array_equal(weight, meaning(ours.linears, "model.layers.1.mlp.experts.q_gate_up_proj.3")[rows:])
        router = "mlp.gate" if kind == "qwen3_moe" else "block_sparse_moe.gate"
        assert f"model.layers.1.{router}" in config_of(folder)["quantization_config"]["ignore"]
    if to == "mlx":  # all experts in one tensor
        found = stored(folder, f"{name.partition('.experts')[0]}.switch_mlp.up_proj")
        codes = stream(found["weight"][3], 4, 64)
        scale, bias = (found[key][3].astype(np.float64).repeat(32, 1) for key in ("scales", "biases"))
        weight = (codes * scale + bias).astype(np.float32)
        assert np.array_equal(weight, meaning(ours.linears, "model.layers.1.mlp.experts.q_gate_up_proj.3")[96:])


def test_transformers_reads_packed_experts(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    for kind in EXPERTS:
        ours = packed(tmp_path / kind, kind, integers(4, 32, scale=torch.float32))
        tokens = torch.arange(12)[None]
        with torch.no_grad():
            folder = export(ours.folder, "compressed-tensors")
            found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
            assert torch.equal(found, ours.dense(tokens).logits)


@pytest.mark.parametrize("kind", EXPERTS)
def test_decoded_experts_have_the_names_of_the_hub(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM

    ours = packed(tmp_path / "a", kind, integers(3, 32))
    folder = export(ours.folder, "dense")
    names = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert f"model.layers.1.{EXPERTS[kind]}.weight" in names
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
        assert torch.equal(found, ours.dense(tokens).logits)


def test_aqlm_holds_no_experts(tmp_path: Path) -> None:
    ours = packed(tmp_path / "a", "mixtral", books(1, 4))
    with pytest.raises(OutputError, match=r"24 of the packed linears.* replaces linears there, and no experts"):
        export(ours.folder, "aqlm")


def test_experts_of_different_widths_are_refused(tmp_path: Path) -> None:
    two, four = integers(2, 32), integers(4, 32)
    ours = packed(tmp_path / "a", "mixtral", lambda w_NK: (two if len(w_NK) == 192 else four)(w_NK))
    with pytest.raises(OutputError, match=r"0\.w1 2 bits; .*0\.w2 4 bits") as error:
        export(ours.folder, "compressed-tensors")
    assert error.value.layer == "model.layers.0.block_sparse_moe.experts"
    several = iter([two, four] * 99)
    unequal = packed(tmp_path / "b", "mixtral", lambda w_NK: next(several)(w_NK))
    with pytest.raises(OutputError, match="lie in one tensor there, and they differ"):
        export(unequal.folder, "mlx")


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize(("symmetric", "group"), [(True, 32), (False, 32), (False, None)])
def test_mlx(tmp_path: Path, bits: int, symmetric: bool, group: int | None) -> None:
    ours = packed(tmp_path / "a", "llama", integers(bits, group, symmetric=symmetric))
    folder = export(ours.folder, "mlx")
    for name, one in ours.linears.items():
        found = stored(folder, name)
        assert found["weight"].dtype == np.uint32
        codes = stream(found["weight"], bits, one.shape[1])
        size = one.shape[1] // found["scales"].shape[1]
        scale, bias = (found[key].astype(np.float64).repeat(size, 1) for key in ("scales", "biases"))
        assert np.array_equal((codes * scale + bias).astype(np.float32), meaning(ours.linears, name))
        options = config_of(folder)["quantization"]
        assert (options.get(name) or options)["group_size"] == size


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [32, None])
def test_gptq(tmp_path: Path, bits: int, group: int | None) -> None:
    ours = packed(tmp_path / "a", "qwen2", integers(bits, group))
    folder = export(ours.folder, "gptq")
    for name, one in ours.linears.items():
        found = stored(folder, name)
        codes = stream(np.ascontiguousarray(found["qweight"].T), bits, one.shape[1])
        zero = (stream(found["qzeros"], bits, one.shape[0]).T + 1) % (1 << bits)
        assert np.array_equal(affine(codes, found["scales"].T, zero), meaning(ours.linears, name))
        assert np.array_equal(found["g_idx"], np.arange(one.shape[1]) // (group or one.shape[1]))
        assert "bias" in found or "self_attn" not in name or "o_proj" in name
    assert config_of(folder)["quantization_config"]["group_size"] == (group or -1)


def test_gptq_of_several_widths(tmp_path: Path) -> None:
    """`dynamic` gives each linear its own options, also under the name of the joined linear that vLLM asks for."""
    choices = {32: integers(8, 32), 64: integers(8, 64), 96: integers(4, 32)}  # k and v; q, o and down; gate and up
    ours = packed(tmp_path / "a", "llama", lambda w_NK: choices[len(w_NK)](w_NK), r"1\.self_attn\.o_proj")
    quantization = config_of(export(ours.folder, "gptq"))["quantization_config"]

    def options(name: str) -> Any:  # as GPTQModel and vLLM read it: the first pattern that fits
        for pattern, overrides in quantization["dynamic"].items():
            if re.match(pattern[2:], name):
                return False if pattern.startswith("-:") else overrides
        return {}

    common = {"bits": quantization["bits"], "group_size": quantization["group_size"]}
    for name in ours.linears:
        bits = 4 if "gate" in name or "up" in name else 8
        group = -1 if "o_proj" in name or "down_proj" in name else 32  # q has a row, and is joined with k and v
        assert common | options(name) == {"bits": bits, "group_size": group}, name
    assert options("model.layers.1.self_attn.o_proj") is False and options("lm_head") == {}
    layer = "model.layers.1"
    assert options(f"{layer}.self_attn.qkv_proj") == options(f"{layer}.self_attn.q_proj")
    assert options(f"{layer}.mlp.gate_up_proj") == options(f"{layer}.mlp.up_proj")


@pytest.mark.parametrize(("symmetric", "group"), [(True, 32), (False, 32), (True, None)])
def test_awq(tmp_path: Path, symmetric: bool, group: int | None) -> None:
    ours = packed(tmp_path / "a", "llama", integers(4, group, symmetric=symmetric))
    folder = export(ours.folder, "awq")

    def nibbles(words: np.ndarray) -> np.ndarray:
        shifts = 4 * np.array([0, 4, 1, 5, 2, 6, 3, 7])  # where outputs 0 to 7 lie in a word
        return ((words.astype(np.int64)[..., None] >> shifts) & 15).reshape(len(words), -1)

    for name in ours.linears:
        found = stored(folder, name)
        weight = affine(nibbles(found["qweight"]).T, found["scales"].T, nibbles(found["qzeros"]).T)
        assert np.array_equal(weight, meaning(ours.linears, name))


@pytest.mark.parametrize(("count", "bits"), [(2, 8), (1, 12), (3, 4)])
def test_aqlm(tmp_path: Path, count: int, bits: int) -> None:
    ours = packed(tmp_path / "a", "llama", books(count, bits))
    folder = export(ours.folder, "aqlm")
    for name, one in ours.linears.items():
        found = stored(folder, name)
        assert found["codes"].dtype == (np.int8 if bits <= 8 else np.int16)
        codes = found["codes"].astype(np.int64) % (1 << bits)
        vectors = sum(found["codebooks"].astype(np.float32)[m, codes[..., m], 0] for m in range(count))
        weight = vectors.reshape(one.shape) * found["scales"].astype(np.float32).reshape(-1, 1)
        assert np.array_equal(weight, meaning(ours.linears, name))
    # transformers compares names of modules: with `.weight` behind it, the tied head would be replaced
    assert config_of(folder)["quantization_config"]["linear_weights_not_to_quantize"] == ["lm_head"]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_dense(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM

    ours = packed(tmp_path / "a", kind, integers(3, 16))
    folder = export(ours.folder, "dense")
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
        assert torch.equal(found, ours.dense(tokens).logits)
    assert "quantization_config" not in config_of(folder)


def test_joined_linears_get_one_group_size(tmp_path: Path) -> None:
    """vLLM joins q, k and v and takes the groups of the first for all."""
    fine, coarse = integers(4, 16), integers(4, 64)
    ours = packed(tmp_path / "a", "llama", lambda w_NK: (fine if len(w_NK) == 32 else coarse)(w_NK), "mlp")
    folder = export(ours.folder, "compressed-tensors")
    scales = {name: stored(folder, name)["weight_scale"] for name in ours.linears}
    assert {scale.shape[1] for name, scale in scales.items() if "o_proj" not in name} == {4}
    kinds = config_of(folder)["quantization_config"]["config_groups"].values()
    assert {kind["weights"]["group_size"] for kind in kinds} == {16, None}  # None: a row
    assert r"re:^model\.layers\.\d+\.self_attn\.o_proj$" in [target for kind in kinds for target in kind["targets"]]


def test_joined_linears_of_different_widths_are_refused(tmp_path: Path) -> None:
    two, four = integers(2, 32), integers(4, 32)
    ours = packed(tmp_path / "a", "llama", lambda w_NK: (two if len(w_NK) == 32 else four)(w_NK), "mlp")
    with pytest.raises(OutputError, match="q_proj 4 bits; k_proj 2 bits; v_proj 2 bits") as error:
        export(ours.folder, "compressed-tensors")
    assert error.value.layer == "model.layers.0.self_attn"
    one_dense = packed(tmp_path / "b", "llama", four, "k_proj")
    with pytest.raises(OutputError, match="k_proj dense"):
        export(one_dense.folder, "compressed-tensors")


@pytest.mark.parametrize("target", [compressed_tensors, gptq])
def test_wrong_bytes_are_found(tmp_path: Path, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows that changed places: what is read back from the file gives another weight."""
    ours = packed(tmp_path / "a", "llama", integers(4, 32))
    right = target.tensors

    def wrong(*arguments: Any) -> dict[str, torch.Tensor]:
        made: dict[str, torch.Tensor] = right(*arguments)
        name = next(iter(made))
        return made | {name: made[name].roll(1, 0)}

    monkeypatch.setattr(target, "tensors", wrong)
    with pytest.raises(FormatError, match="does not decode to the same weight"):
        export(ours.folder, target.__name__.rpartition(".")[2].replace("_", "-"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
