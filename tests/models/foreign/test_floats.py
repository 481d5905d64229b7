"""Floats of 4 and 8 bits, tables of 4 bits, codebooks and affine codes, from encoders that share no code with us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from compress.errors import ModelError
from compress.exports import export
from compress.models.load_dense import load_source
from compress.models.source import ModelSource
from tests.models.foreign.test_integers import TOKENS, check, kept
from tests.support import foreign
from tests.support.exports import books, integers, packed
from tests.support.foreign import Foreign

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)


def e4m3(codes: np.ndarray) -> np.ndarray:
    """Returns the floats E4M3 of byte codes (none of them NaN): a sign, 4 bits of exponent, 3 of mantissa."""
    sign, exponent, mantissa = codes >> 7, (codes >> 3) & 15, codes & 7
    magnitude = np.where(
        exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent.astype(float) - 7)
    )
    return np.where(sign == 1, -magnitude, magnitude).astype(np.float32)


def bytes_of(seed: str, rows: int, columns: int) -> np.ndarray:
    """Returns random codes of E4M3 without NaN."""
    codes = foreign.draw(seed, rows, columns, top=256).astype(np.uint8)
    return np.where((codes & 127) == 127, codes & 120, codes).astype(np.uint8)


def as_float8(codes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(codes).view(torch.float8_e4m3fn)


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
def test_fp8_in_blocks(tmp_path: Path, scale_dtype: torch.dtype) -> None:
    """Blocks of 48 × 40 at widths of 64 and 96: the last ones are cut off."""

    def encode(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        codes = bytes_of(module, rows, columns)
        exponents = foreign.draw(f"{module} scale", -(-rows // 48), -(-columns // 40), top=8)
        scale = (2.0 ** -(exponents + 4)).astype(np.float32)
        weight = np.empty((rows, columns), dtype=np.float32)
        for row in range(rows):
            for column in range(columns):
                weight[row, column] = e4m3(codes[row, column]) * scale[row // 48, column // 40]
        return {"weight": as_float8(codes), "weight_scale_inv": torch.from_numpy(scale).to(scale_dtype)}, weight

    described = {"quant_method": "fp8", "weight_block_size": [48, 40], "activation_scheme": "dynamic"}
    source = check(foreign.write(tmp_path, "llama", encode, described))
    assert kept(source, "model.layers.0.mlp.up_proj") is None
    assert any("activations of 8 bits" in warning for warning in source.warnings)


@pytest.mark.parametrize(("method", "per_row"), [("fp8", False), ("fbgemm_fp8", True)])
def test_fp8_with_one_scale_or_one_for_each_row(tmp_path: Path, method: str, per_row: bool) -> None:
    def encode(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        codes, scale = bytes_of(module, rows, columns), foreign.scales(module, rows if per_row else 1, 1)
        scale = scale.astype(np.float32)
        tensors = {"weight": as_float8(codes)}
        if per_row:
            tensors |= {"weight_scale": torch.from_numpy(scale), "input_scale_ub": torch.ones(1)}
        else:
            tensors |= {"weight_scale_inv": torch.from_numpy(scale).view(()), "activation_scale": torch.ones(())}
        return tensors, e4m3(codes) * scale

    one = kept(check(foreign.write(tmp_path, "llama", encode, {"quant_method": method})), "model.layers.0.mlp.up_proj")
    assert one.scheme.layout == "float_group.v1" and one.scheme.options["per_tensor"] is not per_row


def test_blocks_that_do_not_cover_the_weight(tmp_path: Path) -> None:
    def encode(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        codes = bytes_of(module, rows, columns)
        return {"weight": as_float8(codes), "weight_scale_inv": torch.ones(1, 3)}, e4m3(codes)

    described = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    source = ModelSource.open(foreign.write(tmp_path, "llama", encode, described).folder)
    with pytest.raises(ModelError, match=r"scales \[1, 3\] do not cover") as caught:
        source.read("model.layers.0.mlp.up_proj.weight")
    assert caught.value.layer == "model.layers.0.mlp.up_proj"


def of_library(name: str, options: dict[str, Any]) -> tuple[foreign.Encode, dict[str, Any]]:
    """Returns an encoder that asks the library compressed-tensors, with its description for config.json."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    arguments = QuantizationArgs(**options)
    scheme, compressor = (
        QuantizationScheme(targets=["Linear"], weights=arguments),
        BaseCompressor.get_value_from_registry(name),
    )

    def encode(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        generator = torch.Generator().manual_seed(len(module))
        weight_NK = torch.randn(rows, columns, generator=generator)
        group = options.get("group_size") or columns
        largest = weight_NK.view(rows, -1, group).abs().amax(-1)
        state = {"weight": weight_NK, "weight_scale": largest / (448 if options["num_bits"] == 8 else 6)}
        if "mxfp4" in name:
            state["weight_scale"] = 2.0 ** torch.floor(torch.log2(state["weight_scale"])).clamp(-20, 0)
        if "nvfp4" in name:
            state["weight_global_scale"] = torch.tensor([448 * 6 / float(weight_NK.abs().max())])
            state["weight_scale"] = (
                (state["weight_scale"] * state["weight_global_scale"]).to(torch.float8_e4m3fn).float()
            )
        stored = {key: value for key, value in compressor.compress(state, scheme).items() if value is not None}
        if "nvfp4" not in name:
            return stored, compressor.decompress(stored, scheme)["weight"].float().numpy()
        # the library decodes to bfloat16, which does not hold the product of two scales
        packed_NB = stored["weight_packed"].numpy()
        value = np.stack([E2M1[packed_NB & 15], E2M1[packed_NB >> 4]], axis=-1).reshape(rows, columns)
        scale_NG = stored["weight_scale"].float().numpy() / stored["weight_global_scale"].numpy()
        return stored, value * scale_NG.repeat(16, 1)

    groups = {"group_0": {"targets": ["Linear"], "weights": options, "format": name}}
    return encode, {"quant_method": "compressed-tensors", "format": name, "config_groups": groups}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}),
        ("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}),
        ("nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}),
    ],
)
def test_floats_of_compressed_tensors(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    """Encoded and decoded by the library; scales of powers of two and global scales of NVFP4 included."""
    encode, described = of_library(name, options)
    one = kept(check(foreign.write(tmp_path, "llama", encode, described)), "model.layers.0.mlp.up_proj")
    assert (one.scheme.layout, one.scheme.bits) == ("float_group.v1", options["num_bits"])


def test_mxfp4_of_gpt_oss(tmp_path: Path) -> None:
    """Experts in blocks of 4-bit floats, held transposed; transformers' own decoder is the reference."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    config = AutoConfig.for_model(
        "gpt_oss", vocab_size=61, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    tensors = dict(model.state_dict())
    for name, parameter in model.named_parameters():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, columns, rows = parameter.shape
            blocks = foreign.draw(name, experts, rows, columns // 32, 16, top=256).astype(np.uint8)
            exponents = (foreign.draw(f"{name} scale", experts, rows, columns // 32, top=6) + 119).astype(np.uint8)
            del tensors[name]
            tensors |= {f"{name}_blocks": torch.from_numpy(blocks), f"{name}_scales": torch.from_numpy(exponents)}
            decoded = np.empty((experts, columns, rows), dtype=np.float32)
            for place in range(16):
                for half in range(2):
                    value = E2M1[(blocks[..., place] >> (4 * half)) & 15] * 2.0 ** (exponents.astype(np.float32) - 127)
                    decoded[:, 2 * place + half :: 32] = value.transpose(0, 2, 1)
            parameter.data = torch.from_numpy(decoded)
            theirs = convert_moe_packed_tensors(
                torch.from_numpy(blocks), torch.from_numpy(exponents), dtype=torch.float32
            )
            assert torch.equal(theirs, parameter.data)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    described = json.loads(model.config.to_json_string(use_diff=False)) | {"architectures": [type(model).__name__]}
    described["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(described))
    source = ModelSource.open(tmp_path)
    with torch.inference_mode():
        assert torch.equal(load_source(source, torch.float32)(TOKENS).logits, model(TOKENS).logits)
    name = "model.layers.0.mlp.experts.down_proj"
    assert torch.equal(source.read_slice(name, 1, 3), model.get_parameter(name)[1:3])


def int8_rows(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    codes = foreign.draw(module, rows, columns, top=255) - 127
    largest = foreign.scales(module, rows).astype(np.float32) * 100
    weight = codes.astype(np.float32) * (largest / np.float32(127))[:, None]
    tensors = {"weight": codes.astype(np.int8), "SCB": largest, "weight_format": np.zeros((), dtype=np.uint8)}
    return {name: torch.from_numpy(array) for name, array in tensors.items()}, weight


def test_llm_int8(tmp_path: Path) -> None:
    source = check(foreign.write(tmp_path, "llama", int8_rows, {"quant_method": "bitsandbytes", "load_in_8bit": True}))
    scheme = kept(source, "model.layers.0.mlp.up_proj").scheme
    assert (scheme.bits, scheme.group_size, scheme.options["scale_dtype"]) == (8, 64, "float32")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_4_bit_tables(tmp_path: Path, kind: str, nested: bool) -> None:
    """Blocks of 64 run on from row to row; with nested statistics their scales are codes too."""

    def encode(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        generator = np.random.default_rng(3)
        table = np.sort(generator.uniform(-1, 1, 16)).astype(np.float32)
        codes = foreign.draw(module, rows * columns, top=16)
        state: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [rows, columns]}
        blocks = rows * columns // 64
        absmax = foreign.scales(module, blocks).astype(np.float32)
        tensors: dict[str, np.ndarray] = {
            "weight": (codes[0::2] << 4 | codes[1::2]).astype(np.uint8)[:, None],
            "weight.quant_map": table,
        }
        if nested:
            inner = foreign.draw(f"{module} absmax", blocks, top=256).astype(np.uint8)
            outer, values = (
                foreign.scales(f"{module} outer", -(-blocks // 32)).astype(np.float32),
                np.linspace(-1, 1, 256),
            )
            state |= {"nested_blocksize": 32, "nested_offset": 0.0625, "nested_dtype": "float32"}
            values = values.astype(np.float32)
            absmax = values[inner] * outer.repeat(32)[:blocks] + np.float32(0.0625)
            tensors |= {"weight.nested_absmax": outer, "weight.nested_quant_map": values, "weight.absmax": inner}
        else:
            tensors["weight.absmax"] = absmax
        text = np.frombuffer(json.dumps(state).encode(), dtype=np.uint8).copy()
        tensors[f"weight.quant_state.bitsandbytes__{kind}"] = text
        weight = (table[codes] * absmax.repeat(64)).reshape(rows, columns)
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}, weight

    model = foreign.write(tmp_path, "qwen2", encode, {"quant_method": "bitsandbytes", "load_in_4bit": True})
    assert kept(check(model), "model.layers.0.mlp.up_proj") is None


@pytest.mark.parametrize(("count", "bits"), [(2, 8), (1, 12), (3, 4)])
def test_aqlm(tmp_path: Path, count: int, bits: int) -> None:
    ours = packed(tmp_path / "a", "llama", books(count, bits))
    source = check(Foreign(export(ours.folder, "aqlm"), ours.dense))
    for name, one in ours.linears.items():
        found = kept(source, name)
        assert found.scheme == one.scheme
        assert all(torch.equal(found.planes[plane], one.planes[plane]) for plane in one.planes)


def test_aqlm_with_vectors_of_several_rows(tmp_path: Path) -> None:
    def encode(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        codes = foreign.draw(module, rows // 2, columns // 4, 1, top=16)
        vectors = np.random.default_rng(4).normal(size=(1, 16, 2, 4)).astype(np.float16)
        scale = foreign.scales(module, rows // 2)
        weight = np.empty((rows, columns), dtype=np.float32)
        for row in range(rows):
            for column in range(columns):
                vector = vectors[0, codes[row // 2, column // 4, 0]]
                weight[row, column] = np.float32(vector[row % 2, column % 4]) * np.float32(scale[row // 2])
        tensors = {"codes": codes.astype(np.int8), "codebooks": vectors, "scales": scale.reshape(-1, 1, 1, 1)}
        return {name: torch.from_numpy(array) for name, array in tensors.items()}, weight

    source = check(foreign.write(tmp_path, "llama", encode, {"quant_method": "aqlm"}))
    assert kept(source, "model.layers.0.mlp.up_proj") is None


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_mlx(tmp_path: Path, bits: int, symmetric: bool) -> None:
    """Zero points are found again in the biases, and the embedding is read by rows."""
    ours = packed(tmp_path / "a", "llama", integers(bits, 32, symmetric=symmetric))
    source = check(Foreign(export(ours.folder, "mlx"), ours.dense))
    for name, one in ours.linears.items():
        found = kept(source, name)
        assert found.scheme == one.scheme
        assert all(torch.equal(found.planes[plane], one.planes[plane]) for plane in one.planes)


def test_an_embedding_in_mlx(tmp_path: Path) -> None:
    ours = packed(tmp_path / "a", "llama", integers(4, 32))
    folder = export(ours.folder, "mlx")
    path = next(folder.glob("*.safetensors"))
    tensors = {name: tensor for each in folder.glob("*.safetensors") for name, tensor in load_file(each).items()}
    name = "model.embed_tokens"
    codes = foreign.draw(name, *tensors[f"{name}.weight"].shape, top=16)
    scale = foreign.scales(name, len(codes), 2).astype(np.float32)
    bias = -7.3 * scale  # no zero point
    tensors[f"{name}.weight"] = torch.from_numpy(foreign.words(codes, 4)).view(torch.uint32)
    tensors |= {f"{name}.scales": torch.from_numpy(scale), f"{name}.biases": torch.from_numpy(bias.astype(np.float32))}
    for each in folder.glob("*.safetensors*"):
        each.unlink()
    save_file(tensors, folder / "model.safetensors")
    assert path.parent == folder
    config = json.loads((folder / "config.json").read_text())
    for key in ("quantization", "quantization_config"):
        config[key].pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    source = ModelSource.open(folder)
    whole = source.read(f"{name}.weight")
    expected = codes * scale.repeat(32, 1) + bias.astype(np.float32).repeat(32, 1)
    assert np.allclose(whole.numpy(), expected, rtol=1e-6)
    assert kept(source, name) is None
    assert torch.equal(source.read_rows(f"{name}.weight", [5, 2]), whole[[5, 2]])
    assert torch.equal(source.read_slice(f"{name}.weight", 3, 9), whole[3:9])


def test_another_mode_of_mlx(tmp_path: Path) -> None:
    model = foreign.write(
        tmp_path, "llama", foreign.awq(32), {"group_size": 32, "bits": 4, "mode": "mxfp4"}, "quantization"
    )
    with pytest.raises(ModelError, match="mode mxfp4 of MLX"):
        ModelSource.open(model.folder)
