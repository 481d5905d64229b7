"""Integer codes of other programs: GPTQ, AWQ, compressed-tensors, from encoders that share no code with the readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.errors import ModelError
from compress.exports import export
from compress.format import layouts
from compress.models.blocks import BlockWalker
from compress.models.load_dense import load_source
from compress.models.source import ModelSource
from tests.support import foreign
from tests.support.exports import integers, packed
from tests.support.foreign import Foreign

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
TOKENS = torch.arange(12)[None]


def check(model: Foreign) -> ModelSource:
    """Every weight is the one that the encoder meant, and the whole model computes the same."""
    source = ModelSource.open(model.folder)
    assert source.foreign is not None
    for parameter in source.foreign.parameters:
        assert torch.equal(source.read(parameter), model.weight(parameter.removesuffix(".weight"))), parameter
    with torch.inference_mode():
        loaded = load_source(source, torch.float32)
        assert torch.equal(loaded(TOKENS).logits, model.dense(TOKENS).logits)
    return source


def kept(source: ModelSource, linear: str) -> Any:
    """Returns the linear in a layout of ours, or None; its scheme is known without the codes."""
    assert source.foreign is not None
    content = source.foreign.content(f"{linear}.weight")
    one = content.packed()
    assert content.scheme() == (None if one is None else one.scheme)
    if one is not None:
        assert torch.equal(layouts.unpack(one), content.decode())
    return one


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(tmp_path: Path, bits: int, version: int) -> None:
    described = GPTQ | {"bits": bits, "checkpoint_format": "gptq" if version == 1 else "gptq_v2"}
    encode = foreign.gptq(bits, 32, act_order=False, version=version)
    source = check(foreign.write(tmp_path, "llama", encode, described))
    one = kept(source, "model.layers.0.mlp.up_proj")
    assert (one.scheme.bits, one.scheme.group_size, one.scheme.options["symmetric"]) == (bits, 32, False)


def test_gptq_of_gpt_2(tmp_path: Path) -> None:
    """The model holds its weights transposed, square ones too; programs quantise them as [out, in]."""
    model = foreign.write(tmp_path, "gpt2", foreign.gptq(4, 32, act_order=False), GPTQ)
    source = ModelSource.open(model.folder)
    with torch.inference_mode():
        assert torch.equal(load_source(source, torch.float32)(TOKENS).logits, model.dense(TOKENS).logits)
    kept_codes = BlockWalker(ModelSource.open(model.folder, keep_codes=True)).kept
    one = kept_codes.part("transformer.h.1.attn.c_proj")
    assert one is not None
    assert torch.equal(layouts.unpack(one), model.weight("transformer.h.1.attn.c_proj").T)


def test_gptq_with_act_order(tmp_path: Path) -> None:
    """Its groups lie in no order, so no layout of ours holds the codes; the weights are those of the plain loop."""
    model = foreign.write(tmp_path, "qwen2", foreign.gptq(4, 32, act_order=True), GPTQ | {"desc_act": True})
    assert kept(check(model), "model.layers.1.mlp.down_proj") is None


def test_a_wrong_version_changes_the_weights(tmp_path: Path) -> None:
    """The negative control: version 2 read as version 1 shifts every zero point."""
    model = foreign.write(tmp_path, "llama", foreign.gptq(4, 32, act_order=False, version=2), GPTQ)
    with pytest.raises(AssertionError, match="weight"):
        check(model)


def test_awq(tmp_path: Path) -> None:
    model = foreign.write(tmp_path, "qwen3", foreign.awq(32), {"quant_method": "awq", "bits": 4, "version": "gemm"})
    one = kept(check(model), "model.layers.0.self_attn.k_proj")
    assert (one.scheme.bits, one.scheme.group_size, one.scheme.options["symmetric"]) == (4, 32, False)


def test_two_swapped_rows_are_noticed(tmp_path: Path) -> None:
    """The negative control of the comparison itself."""
    model = foreign.write(tmp_path, "llama", foreign.awq(32), {"quant_method": "awq", "bits": 4})
    weight = model.dense.get_parameter("model.layers.0.self_attn.q_proj.weight")
    weight.data[[0, 1]] = weight.data[[1, 0]]
    with pytest.raises(AssertionError, match="q_proj"):
        check(model)


@pytest.mark.parametrize("to", ["gptq", "awq", "compressed-tensors"])
@pytest.mark.parametrize("group", [32, None])
def test_what_this_package_exports(tmp_path: Path, to: str, group: int | None) -> None:
    ours = packed(tmp_path / "a", "llama", integers(4, group, symmetric=to == "gptq"), "^$" if group else "down_proj")
    source = check(Foreign(export(ours.folder, to), ours.dense))
    for name, one in ours.linears.items():
        found = kept(source, name)
        if to != "awq" or group:  # AWQ has no rows: their scales were repeated
            assert found.scheme == one.scheme
            assert all(torch.equal(found.planes[plane], one.planes[plane]) for plane in one.planes)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def compressed(bits: int, group: int, *, padded: bool = False, act_order: bool = False) -> foreign.Encode:
    """Returns the encoder of `pack-quantized`, in padded words as versions before 0.18 wrote them if asked."""

    def pack(codes: np.ndarray) -> np.ndarray:
        if not padded:
            return foreign.words(codes, bits)
        per_word = 32 // bits
        found = np.zeros((len(codes), -(-codes.shape[1] // per_word)), dtype=np.uint32)
        for place in range(codes.shape[1]):
            found[:, place // per_word] |= codes[:, place].astype(np.uint32) << np.uint32(bits * (place % per_word))
        return found.view(np.int32)

    def encode(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        groups = columns // group
        codes = foreign.draw(module, rows, columns, top=1 << bits)
        zeros = foreign.draw(f"{module} zero", rows, groups, top=1 << bits)
        scale = foreign.scales(module, rows, groups)
        group_of = np.arange(columns) // group
        if act_order:
            group_of = np.random.default_rng(2).permutation(group_of)
        weight = (codes - zeros[:, group_of]).astype(np.float32) * scale[:, group_of].astype(np.float32)
        tensors = {
            "weight_packed": pack(codes),
            "weight_scale": scale,
            "weight_zero_point": pack(zeros.T).T,
            "weight_shape": np.array([rows, columns]),
        }
        if act_order:
            tensors["weight_g_idx"] = group_of.astype(np.int32)
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}, weight

    return encode


def describe(bits: int, group: int | None, **weights: Any) -> dict[str, Any]:
    options = {"num_bits": bits, "type": "int", "symmetric": False, "strategy": "group", "group_size": group, **weights}
    groups = {"group_0": {"targets": ["Linear"], "weights": options}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7, 8])
@pytest.mark.parametrize("padded", [False, True])
def test_compressed_tensors(tmp_path: Path, bits: int, padded: bool) -> None:
    model = foreign.write(tmp_path, "llama", compressed(bits, 32, padded=padded), describe(bits, 32))
    assert kept(check(model), "model.layers.1.self_attn.o_proj").scheme.bits == bits


def test_compressed_tensors_with_act_order(tmp_path: Path) -> None:
    model = foreign.write(tmp_path, "llama", compressed(4, 32, act_order=True), describe(4, 32))
    assert kept(check(model), "model.layers.1.self_attn.o_proj") is None


@pytest.mark.parametrize(("bits", "symmetric"), [(3, True), (3, False), (4, False), (7, True), (8, False)])
def test_what_its_own_library_packs(tmp_path: Path, bits: int, symmetric: bool) -> None:
    """The writer is the library compressed-tensors."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    def encode(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        middle = 1 << (bits - 1)
        codes = torch.from_numpy(foreign.draw(module, rows, columns, top=1 << bits) - middle).to(torch.int8)
        zeros = torch.from_numpy(foreign.draw(f"{module} zero", rows, columns // 32, top=1 << bits) - middle)
        zeros = zeros.to(torch.int8) * (not symmetric)
        scale = torch.from_numpy(foreign.scales(module, rows, columns // 32))
        weight = (codes.float() - zeros.repeat_interleave(32, 1)) * scale.float().repeat_interleave(32, 1)
        tensors = {
            "weight_packed": pack_to_int32(codes, bits),
            "weight_scale": scale,
            "weight_shape": torch.tensor([rows, columns]),
        }
        if not symmetric:
            tensors["weight_zero_point"] = pack_to_int32(zeros, bits, packed_dim=0)
        return tensors, weight.numpy()

    model = foreign.write(tmp_path, "llama", encode, describe(bits, 32, symmetric=symmetric))
    assert kept(check(model), "model.layers.0.mlp.gate_proj").scheme.options["symmetric"] is symmetric


def w8a8(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    codes = foreign.draw(module, rows, columns, top=256) - 128
    scale = foreign.scales(module, rows, 1)
    return {
        "weight": torch.from_numpy(codes.astype(np.int8)),
        "weight_scale": torch.from_numpy(scale),
        "input_scale": torch.ones(1),
    }, codes.astype(np.float32) * scale.astype(np.float32)


def test_int8_with_activations(tmp_path: Path) -> None:
    """The weights are read; that activations are not rounded here is said."""
    described = describe(8, None, strategy="channel", symmetric=True)
    described["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8, "type": "int", "dynamic": True}
    source = check(foreign.write(tmp_path, "llama", w8a8, described))
    one = kept(source, "model.layers.0.mlp.up_proj")
    assert one.scheme.bits == 8 and one.scheme.options["symmetric"] and one.scheme.group_size == 64
    assert any("activations of 8 bits" in warning for warning in source.warnings)


def test_the_group_of_a_linear(tmp_path: Path) -> None:
    """A name goes before a pattern, and a pattern before the class."""

    def encode(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        bits = 8 if module.endswith("1.mlp.up_proj") else 3 if "mlp" in module else 4
        return compressed(bits, 32)(module, rows, columns)

    described = describe(4, 32)
    groups = described["config_groups"]
    for number, (bits, target) in enumerate([(3, r"re:.*\.mlp\..*_proj$"), (8, "model.layers.1.mlp.up_proj")], 1):
        groups[f"group_{number}"] = {"targets": [target], "weights": groups["group_0"]["weights"] | {"num_bits": bits}}
    check(foreign.write(tmp_path, "llama", encode, described))


def test_it_is_walked_block_by_block(tmp_path: Path) -> None:
    model = foreign.write(tmp_path, "llama", foreign.awq(32), {"quant_method": "awq", "bits": 4})
    walker = BlockWalker(ModelSource.open(model.folder))
    hidden = walker.embed(TOKENS)
    for index in range(len(walker.block_names)):
        block = walker.load_block(index)
        hidden = walker.forward(block, hidden, micro_batch=1)
        walker.free_block(block)
    with torch.inference_mode():
        expected = model.dense(TOKENS).logits
    assert (walker.logits(hidden) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quant_method": "hqq"}, "(hqq)"),
        ({"quant_method": "exl2"}, "ExLlamaV2"),
        ({"quant_method": "torchao"}, "(torchao)"),
        ({"quant_method": "no-such"}, "(no-such)"),
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "packed as marlin"),
        ({"quant_method": "gptq", "pack_dtype": "int8"}, "words of int8"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "version gemv"),
        ({"quant_method": "awq", "bits": 3}, "3 bits"),
        ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bit"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "marlin-24"),
        ({"quant_method": "compressed-tensors", "transform_config": {"config_groups": {"R1": {}}}}, "rotated"),
        ({"quant_method": "compressed-tensors"}, "none of its tensors"),
    ],
    ids=str,
)
def test_variants_that_are_not_read(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    model = foreign.write(tmp_path, "llama", foreign.gptq(4, 32, act_order=False), change)
    with pytest.raises(ModelError) as caught:
        ModelSource.open(model.folder)
    assert said in str(caught.value) and caught.value.do


@pytest.mark.parametrize(
    ("suffix", "change", "said"),
    [
        ("qzeros", None, "its qzeros is missing"),
        ("qzeros", torch.zeros(2, 7).int(), "do not fit together"),
        ("qweight", torch.zeros(7, 96).int(), "g_idx"),
        ("g_idx", torch.zeros(5).int(), "g_idx"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path: Path, suffix: str, change: torch.Tensor | None, said: str) -> None:
    model = foreign.write(tmp_path, "llama", foreign.gptq(4, 32, act_order=False), GPTQ)
    tensors, linear = tensors_of(model.folder), "model.layers.1.mlp.up_proj"
    if change is None:
        del tensors[f"{linear}.{suffix}"]
    else:
        tensors[f"{linear}.{suffix}"] = change
    save_file(tensors, model.folder / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        ModelSource.open(model.folder)
    assert said in str(caught.value) and caught.value.layer == linear


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    model = foreign.write(tmp_path, "llama", foreign.gptq(4, 32, act_order=False), GPTQ)
    tensors, linear = tensors_of(model.folder), "model.layers.1.mlp.up_proj"
    tensors[f"{linear}.g_idx"][3] = 2
    save_file(tensors, model.folder / "model.safetensors")
    with pytest.raises(ModelError, match="g_idx names a group") as caught:
        ModelSource.open(model.folder).read(f"{linear}.weight")
    assert caught.value.layer == linear


def test_folders_of_older_programs(tmp_path: Path) -> None:
    """AutoGPTQ once described the quantisation beside config.json."""
    model = foreign.write(tmp_path, "llama", foreign.gptq(4, 32, act_order=False), GPTQ)
    config = json.loads((model.folder / "config.json").read_text())
    del config["quantization_config"]
    (model.folder / "config.json").write_text(json.dumps(config))
    (model.folder / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 32, "sym": False}))
    source = check(model)
    assert source.foreign is not None and source.foreign.label == "gptq, 4 bits, groups of 32"


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    model = foreign.write(tmp_path / "a", "llama", foreign.gptq(4, 32, act_order=False), GPTQ)
    other = foreign.write(tmp_path / "b", "llama", foreign.gptq(4, 32, act_order=False), GPTQ | {"desc_act": True})
    source = ModelSource.open(model.folder)
    assert source.parameters == sum(one.numel() for one in model.dense.parameters())
    assert source.size_bytes < 2 * source.parameters
    assert not source.unpacked and "quantization_config" not in source.raw_config
    assert source.fingerprint != ModelSource.open(other.folder).fingerprint
    assert any("quantised before (gptq, 4 bits" in warning for warning in source.warnings)
