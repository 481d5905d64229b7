"""GGUF files: written by the package gguf or block by block here, read as models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import compress
from compress.errors import ModelError
from compress.format import layouts
from compress.format.reader import open_checkpoint
from compress.models.foreign.gguf import reader
from compress.models.load_dense import load_source
from compress.models.source import ModelSource
from tests.models.foreign.test_integers import TOKENS, check, kept
from tests.support import foreign
from tests.support.exports import MODELS
from tests.support.foreign import Foreign
from tests.support.models import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("proof_in_this_process")
BLOCK = 32
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}  # fmt: skip
ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))


def blocks_of(kind: str, seed: str, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bytes [N, Y] of random blocks and the weights that they mean, code by code."""
    bits, zero = {"Q4_0": (4, 8), "Q5_0": (5, 16), "Q8_0": (8, 128), "Q4_1": (4, None), "Q5_1": (5, None)}[kind]
    codes = foreign.draw(seed, rows, columns // BLOCK, BLOCK, top=1 << bits)
    scale = foreign.scales(seed, rows, columns // BLOCK)
    if zero is None:  # scales of few bits, so that minima are exact in float16
        scale = (scale.view(np.uint16) & 0xFF80).view(np.float16)
        zero = foreign.draw(f"{seed} zero", rows, columns // BLOCK, top=1 << bits)[..., None]
    found = []
    for row in range(rows):
        for group in range(columns // BLOCK):
            one, data = codes[row, group].tolist(), bytearray(scale[row, group].tobytes())
            if kind.endswith("_1"):
                data += (-zero[row, group] * scale[row, group]).astype(np.float16).tobytes()
            if kind == "Q8_0":
                data += bytes((code - 128) % 256 for code in one)
            else:
                if bits == 5:
                    data += sum((code >> 4) << place for place, code in enumerate(one)).to_bytes(4, "little")
                data += bytes((one[place] & 15) | (one[place + 16] & 15) << 4 for place in range(16))
            found.append(bytes(data))
    stored = np.frombuffer(b"".join(found), dtype=np.uint8).reshape(rows, -1)
    weight = (codes - zero).astype(np.float32) * scale.astype(np.float32)[..., None]
    return stored, weight.reshape(rows, columns)


def permuted(array: np.ndarray, heads: int) -> np.ndarray:
    """Returns rows of q or k in the order of llama.cpp: the halves of a head alternate."""
    half = len(array) // heads // 2
    order = [head * 2 * half + part * half + row for head in range(heads) for row in range(half) for part in range(2)]
    return array[order]


def write(path: Path, kind: str = "Q4_0", model_kind: str = "llama", **keys: Any) -> Foreign:
    """Writes a tiny model as a GGUF file: linears in blocks of one type, the embedding as Q8_0, norms as F32."""
    torch.manual_seed(0)
    values = dict(MODELS[model_kind])
    architecture = values.pop("model_type")
    is_llama = architecture in ("llama", "mixtral")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **values)).float().eval()
    config = model.config
    writer = gguf.GGUFWriter(path, "llama" if is_llama else architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    for key, value in keys.items():
        writer.add_string(key.replace("__", "."), value)
    for name, tensor in model.state_dict().items():
        if name in model.all_tied_weights_keys:
            continue
        module, _, suffix = name.rpartition(".")
        block, _, inner = module.removeprefix("model.layers.").partition(".")
        named = ENDS.get(module) or f"blk.{block}.{NAMES.get(inner)}"
        array = tensor.numpy()
        if array.ndim == 3:  # experts
            halves = [("gate", array[:, :96]), ("up", array[:, 96:])] if "gate_up" in name else [("down", array)]
            for which, part in halves:
                writer.add_tensor(f"blk.{block}.ffn_{which}_exps.weight", np.ascontiguousarray(part))
            continue
        if "mlp.gate" in name and model_kind == "mixtral":
            writer.add_tensor(f"blk.{block}.ffn_gate_inp.weight", array)
            continue
        if array.ndim == 1:
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(module[-6:])
            array = permuted(array, heads) if heads and is_llama else array
            writer.add_tensor(f"{named}.{suffix}", array)
            continue
        of_type = "Q8_0" if module in ENDS else kind
        stored, weight = blocks_of(of_type, name, *array.shape)
        model.get_parameter(name).data = torch.from_numpy(weight)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(module[-6:])
        stored = permuted(stored, heads) if heads and is_llama else stored
        writer.add_tensor(f"{named}.{suffix}", stored, raw_dtype=gguf.GGMLQuantizationType[of_type])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Foreign(path, model)


@pytest.mark.parametrize(
    ("kind", "model_kind"),
    [
        *((k, m) for k in ("Q4_0", "Q5_0", "Q8_0") for m in ("llama", "qwen2", "qwen3")),
        ("Q4_1", "llama"),
        ("Q5_1", "qwen3"),
    ],
)
def test_a_file(tmp_path: Path, kind: str, model_kind: str) -> None:
    """Rows of q and k come back into their order where the architecture has another, and codes are kept."""
    model = write(tmp_path / "x.gguf", kind, model_kind)
    source = ModelSource.open(model.folder)
    assert source.foreign is not None and source.name == "x.gguf" and kind in source.foreign.label
    for parameter in source.foreign.parameters:
        assert torch.equal(source.read(parameter), model.dense.get_parameter(parameter)), parameter
    for linear in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.down_proj", "model.embed_tokens"):
        assert kept(source, linear).scheme.group_size == 32
    with torch.inference_mode():
        assert torch.equal(load_source(source, torch.float32)(TOKENS).logits, model.dense(TOKENS).logits)
    table = "model.embed_tokens.weight"
    assert torch.equal(source.read_rows(table, [7, 3]), source.read(table)[[7, 3]])


def test_rows_in_another_order_are_noticed(tmp_path: Path) -> None:
    """The negative control: q of a file whose rows were not permuted."""
    model = write(tmp_path / "x.gguf")
    weight = model.dense.get_parameter("model.layers.0.self_attn.q_proj.weight")
    weight.data = torch.from_numpy(permuted(weight.detach().numpy(), 4))
    with pytest.raises(AssertionError, match="q_proj"):
        check(model)


@pytest.mark.parametrize("kind", ["Q4_1", "Q5_1", "F16", "BF16", "F32"])
def test_types_without_codes_to_keep(tmp_path: Path, kind: str) -> None:
    """Encoded by the package gguf."""
    model = write(tmp_path / "x.gguf")
    opened, of_type = gguf.GGUFReader(model.folder), gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(tmp_path / "y.gguf", "llama")
    for field in opened.fields.values():
        if not field.name.startswith(("GGUF", "general.architecture")):
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in opened.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 2:
            writer.add_tensor(tensor.name, gguf.quantize(values, of_type), raw_dtype=of_type)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source, stored = ModelSource.open(tmp_path / "y.gguf"), gguf.GGUFReader(tmp_path / "y.gguf").tensors
    up = next(tensor for tensor in stored if tensor.name == "blk.1.ffn_up.weight")
    expected = torch.from_numpy(np.array(gguf.dequantize(up.data, up.tensor_type), dtype=np.float32))
    assert torch.equal(source.read("model.layers.1.mlp.up_proj.weight"), expected)
    assert kept(source, "model.layers.1.mlp.up_proj") is None


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_keep_their_codes(kind: str) -> None:
    """Random bytes use every code, scale and minimum; the package gguf is the reference."""
    of_type = gguf.GGMLQuantizationType[kind]
    weights, size = gguf.GGML_QUANT_SIZES[of_type]
    blocks = np.random.default_rng(5).integers(0, 256, (8, 2, size)).astype(np.uint8)
    units = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[kind]
    for place in units:
        blocks[..., place : place + 2] = foreign.scales(f"{kind} {place}", 8, 2, 1).view(np.uint8)
    expected = torch.from_numpy(np.array(gguf.dequantize(blocks.reshape(8, -1), of_type), dtype=np.float32))
    order = torch.tensor([3, 1, 2, 0, 7, 6, 5, 4])
    content = reader.SuperBlocks(torch.from_numpy(blocks.reshape(8, -1)), of_type, order, (8, 2 * weights))
    one = content.packed()
    assert one is not None and one.scheme == content.scheme()
    assert torch.equal(layouts.unpack(one), expected[order]) and torch.equal(content.decode(), expected[order])


def test_codes_go_into_a_checkpoint(tmp_path: Path) -> None:
    """The embedding keeps its codes too; the file's own path is nowhere in what is shared."""
    model = write(tmp_path / "x.gguf", "Q4_0")
    done = compress.run(str(model.folder), "none", keep_codes=True, suite="none", output=tmp_path / "out")
    checkpoint = open_checkpoint(done.checkpoint)
    assert len(done.manifest["tensors"]) == 15 and "model.embed_tokens" in done.manifest["tensors"]
    for name in done.manifest["tensors"]:
        assert torch.equal(layouts.unpack(checkpoint.packed(name)), model.weight(name))
    assert "gguf, Q4_0" in done.manifest["history"][0]["imported"]
    for path in {*done.checkpoint.glob("*.json")} - {done.checkpoint / "run.json"}:  # the run repeats on this machine
        assert str(tmp_path) not in path.read_text()
    assert "quantization_config" not in ModelSource.open(done.checkpoint).raw_config


def test_a_folder_with_the_original_configuration(tmp_path: Path) -> None:
    """Its config.json and tokenizer are used, and nothing is made of the file's own."""
    model = write(tmp_path / "folder.gguf", "Q8_0")
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "folder.gguf").rename(folder / "model.gguf")
    described = json.loads(model.dense.config.to_json_string(use_diff=False))
    (folder / "config.json").write_text(json.dumps(described | {"architectures": ["LlamaForCausalLM"]}))
    tiny_tokenizer().save_pretrained(folder)
    source = check(Foreign(folder, model.dense))
    assert source.path == folder and source.tokenizer() is not None
    assert not (tmp_path / "cache").exists()
    (folder / "config.json").unlink()
    assert torch.equal(ModelSource.open(folder).read("model.norm.weight"), source.read("model.norm.weight"))


def test_experts(tmp_path: Path) -> None:
    """Stacks of gate and up are one parameter here. Alone, such a file says that it is a Llama."""
    model = write(tmp_path / "model.gguf", "Q8_0", "mixtral")
    with pytest.raises(ModelError, match="holds the experts"):
        ModelSource.open(model.folder)
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "model.gguf").rename(folder / "model.gguf")
    described = json.loads(model.dense.config.to_json_string(use_diff=False))
    (folder / "config.json").write_text(json.dumps(described | {"architectures": ["MixtralForCausalLM"]}))
    source = ModelSource.open(folder)
    with torch.inference_mode():
        assert torch.equal(load_source(source, torch.float32)(TOKENS).logits, model.dense(TOKENS).logits)


def test_what_is_refused(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(ModelError) as caught:
            ModelSource.open(path)
        return str(caught.value)

    path = write(tmp_path / "x.gguf").folder
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert "is damaged" in refusal(path)
    path.write_bytes(whole[:600])
    assert "cannot be read" in refusal(path)
    (tmp_path / "m-00001-of-00003.gguf").write_bytes(whole)
    assert "one of 3 parts" in refusal(tmp_path / "m-00001-of-00003.gguf")
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a.gguf", "b.gguf"):
        (two / name).write_bytes(whole)
    assert "several GGUF files: a.gguf, b.gguf" in refusal(two)
    assert "stretches its rotary" in refusal(write(tmp_path / "y.gguf", llama__rope__scaling__type="yarn").folder)


def test_the_package_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compress.models.foreign.gguf import opening

    path = write(tmp_path / "x.gguf").folder
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install"):
        ModelSource.open(path)


def test_the_rotary_embedding_of_llama_3(tmp_path: Path) -> None:
    """The file holds the factors of each frequency; the settings that give them are found again."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from compress.models.foreign.gguf.header import Header
    from compress.models.foreign.gguf.opening import settle_rotation

    values = dict(MODELS["llama"]) | {"max_position_embeddings": 131072}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    settings = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    config.rope_parameters = settings
    frequencies = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0]
    plain = 1 / 500000.0 ** (torch.arange(0, 2 * len(frequencies), 2) / (2 * len(frequencies)))
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("rope_freqs.weight", (plain / frequencies).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config.rope_parameters = {"rope_type": "default", "rope_theta": 500000.0}
    settle_rotation(config, Header(tmp_path / "x.gguf"), Path("x.gguf"))
    assert config.rope_parameters == settings
    config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    with pytest.raises(ModelError, match="not known here"):
        settle_rotation(config, Header(tmp_path / "x.gguf"), Path("x.gguf"))
