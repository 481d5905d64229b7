"""Whatever is not one whole causal language model is named, with the cure, before any work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.errors import ModelError
from compress.models.source import ModelSource
from tests.support.models import save_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("kinds") / "tiny")


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny, tmp_path / "model")


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        ModelSource.open(path)
    return str(caught.value)


ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "owner/base"})


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"adapter_config.json": ADAPTER, "adapter_model.safetensors": "x"}, "PEFT adapter (LORA"),
        ({"adapter_config.json": ADAPTER, "adapter_model.bin": "x", "training_args.bin": "x"}, "for owner/base"),
        ({"adapter_config.json": "[" * 100_000, "adapter_model.bin": "x"}, "adapter_config.json cannot be read"),
        ({"m-q4.gguf": "GGUF"}, "m-q4.gguf has a header that cannot be read"),
        ({"config.json": "{}", "m.gguf": "GGUF"}, "names no model_type"),
        ({"config.json": "{}", "m.ggml": "GGML"}, "as GGML, an old format of llama.cpp (m.ggml)"),
        ({"config.json": "{}", "model.onnx": "x"}, "as ONNX"),
        ({"config.json": "{}", "tf_model.h5": "x"}, "as TensorFlow"),
        ({"config.json": "{}", "flax_model.msgpack": "x"}, "as Flax"),
        ({"model_index.json": "{}", "unet/config.json": "{}"}, "a pipeline of diffusers with several models (unet)"),
        ({"modules.json": "[]", "config.json": "{}", "model.safetensors": "x"}, "of sentence-transformers"),
        ({"params.json": "{}", "consolidated.safetensors": "x"}, "(params.json), and no config.json"),
        ({"checkpoint-5/config.json": "{}", "trainer_state.json": "{}"}, "but checkpoint-5 does"),
        ({"snapshots/0a1b/config.json": "{}"}, "but snapshots/0a1b does"),
        (
            {"config.json": '{"_class_name": "UNet2DConditionModel"}', "a.safetensors": "x"},
            "a part of a diffusers pipeline",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_another_kind_of_folder(tmp_path: Path, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_text(text)
    text = refusal(tmp_path / "folder")
    assert said in text
    assert any(word in text for word in ("Give ", "Download ")), "the cure is missing"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.gguf", b"GGUF", "m.gguf has a header that cannot be read: it ends early"),
        ("misnamed.bin", b"GGUF\x03", "misnamed.bin has a header that cannot be read"),
        ("m.onnx", b"", "another format: ONNX"),
        ("pytorch_model.bin", b"PK", "a pickle"),
        ("model.safetensors", b"", "is a file"),
    ],
)
def test_a_file(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "a classifier of texts"),
        ({"architectures": ["LlamaForTokenClassification"]}, "a classifier of tokens"),
        ({"architectures": ["Qwen2ForProcessRewardModel"]}, "a model for another task"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "a masked language model"),
        (
            {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
            "an encoder",
        ),
        ({"quantization_config": {"quant_method": "hqq"}}, "already quantised (hqq), says quantization_config in"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised (gptq, 4 bits), but none"),
        (
            {"text_config": {"quantization_config": {"quant_method": "awq"}}},
            "text_config.quantization_config in",
        ),
        ({"quantization": {"group_size": 64, "bits": 4}}, "quantised"),
        ({"compression_config": {"format": "pack-quantized"}}, "quantised (compressed-tensors), but none of its"),
        ({"transformers_weights": "../other.safetensors"}, "sets transformers_weights"),
    ],
    ids=str,
)
def test_another_kind_of_model(folder: Path, change: dict[str, Any], said: str) -> None:
    edit(folder / "config.json", **change)
    assert said in refusal(folder)


@pytest.mark.parametrize("name", ["hf_quant_config.json", "quantize_config.json", "quant_config.json"])
def test_the_configuration_of_a_quantiser(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    said = refusal(folder)
    assert "quantised" in said and name in said


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn, torch.float8_e8m0fnu])
def test_codes_without_a_quantization_config(folder: Path, dtype: torch.dtype) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = (tensors[name] * 20).to(dtype)
    save_file(tensors | {f"{name}_scale": torch.ones(1)}, folder / "model.safetensors")
    said = refusal(folder)
    assert said.startswith("model.layers.1.mlp.up_proj: its weight is stored as") and "Dequantise" in said


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3"])
def test_dtypes_of_quantised_checkpoints(folder: Path, dtype: str) -> None:
    header = json.dumps({"a.weight": {"dtype": dtype, "shape": [8], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert f"stored as {dtype}, a dtype of quantised checkpoints" in refusal(folder)


@pytest.mark.parametrize("part", ["lora_A.default.weight", "base_layer.weight", "lora_magnitude_vector.default.weight"])
def test_an_adapter_that_is_not_merged(folder: Path, part: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {f"model.layers.0.mlp.up_proj.{part}": torch.ones(2, 2)}, folder / "model.safetensors")
    assert "merge_and_unload" in refusal(folder)


def test_two_sets_of_weights(tmp_path: Path, tiny: Path) -> None:
    folder = save_tiny(tmp_path / "shards", shards=2)
    shutil.copy(tiny / "model.safetensors", folder)
    assert "holds the weights twice" in refusal(folder)


def test_a_name_that_transformers_does_not_load(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert "Rename it to model.safetensors" in refusal(folder)


def test_an_adapter_beside_a_whole_model_is_named(folder: Path) -> None:
    assert ModelSource.open(folder).warnings == ()
    (folder / "adapter_config.json").write_text(ADAPTER)
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    (warning,) = ModelSource.open(folder).warnings
    assert "a PEFT adapter (LORA" in warning and "is not applied" in warning and "merge" in warning
    assert not [name for name in ModelSource.open(folder).auxiliary_files() if name.startswith("adapter")]


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": -64}, {"num_hidden_layers": 0}, {"vocab_size": -1}, {"num_key_value_heads": -2},
        {"intermediate_size": -1.5}, {"num_hidden_layers": 10**9}, {"hidden_size": "wide"}, {"rope_parameters": []},
        {"rope_parameters": {"rope_type": "no_such"}}, {"dtype": "float99"}, {"architectures": 7}, {"model_type": 3},
        {"model_type": None}, {"id2label": 5}, {"layer_types": ["no_such"] * 3}, {"hidden_size": None},
    ],
    ids=str,
)  # fmt: skip
def test_values_of_the_configuration_that_no_model_has(folder: Path, change: dict[str, Any]) -> None:
    """Refused when the model is opened or, where only building it shows the fault, before any work."""
    from compress.models.blocks import BlockWalker

    edit(folder / "config.json", **change)
    try:
        BlockWalker(ModelSource.open(folder))
    except ModelError as error:
        assert "config.json" in str(error) or "'llama'" in str(error)
    else:
        assert set(change) <= {"architectures", "rope_parameters"}, "a value that transformers itself puts right"


def test_json_nested_without_end(folder: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 100_000)
    assert "config.json cannot be read: lists or objects are nested too deeply" in refusal(folder)
