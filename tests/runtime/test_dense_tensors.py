"""Dense tensors of a checkpoint: wrong dtypes, shapes and values are errors with the tensor's name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import compress
from compress.errors import FormatError
from compress.runtime import load
from tests.support import proofs
from tests.support.models import save_tiny

NORM = "model.layers.0.input_layernorm.weight"
BIAS = "model.layers.0.self_attn.q_proj.bias"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    source = save_tiny(folder / "tiny", "qwen2", num_hidden_layers=1)
    with pytest.MonkeyPatch.context() as patch:
        proofs.in_this_process(patch)
        return compress.run(str(source), "rtn", head_bits="none", suite="none", output=folder / "packed").checkpoint


def damaged(packed: Path, tmp_path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A copy of the checkpoint with one tensor changed, and a manifest to which that is as it should be."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in packed.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    content = json.loads((folder / "compress.json").read_text())
    for shard in content["shards"]:
        tensors = load_file(folder / shard["file"])
        if name in tensors:
            save_file(tensors | {name: change(tensors[name])}, folder / shard["file"], {"format": "pt"})
            data = (folder / shard["file"]).read_bytes()
            shard |= {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "compress.json").write_text(json.dumps(content))
    return folder


def first_is(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: torch.cat([torch.tensor([value]), tensor[1:]])


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (NORM, first_is(float("nan")), "NaN or infinite"),
        (NORM, first_is(float("-inf")), "NaN or infinite"),
        (NORM, lambda tensor: tensor.to(torch.int8), "it is stored as I8"),
        (NORM, lambda tensor: tensor.to(torch.bool), "it is stored as BOOL"),
        (NORM, lambda tensor: tensor.to(torch.float8_e4m3fn), "F8_E4M3"),
        (BIAS, first_is(float("nan")), "NaN or infinite"),
        (BIAS, lambda tensor: tensor.to(torch.int32), "its bias is"),
        (BIAS, lambda tensor: tensor[1:].clone(), "its bias is"),
        ("lm_head.weight", lambda tensor: tensor * float("inf"), "NaN or infinite"),
    ],
)
def test_a_damaged_dense_tensor_is_named(
    packed: Path, tmp_path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    with pytest.raises(FormatError, match=said) as caught:
        load(damaged(packed, tmp_path, name, change))
    assert name.removesuffix(".bias") in str(caught.value)


def test_another_floating_dtype_is_read(packed: Path, tmp_path: Path) -> None:
    load(damaged(packed, tmp_path, NORM, lambda tensor: tensor.double()), dtype=torch.float32)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_metadata_that_transformers_chokes_on_is_an_error(packed: Path, tmp_path: Path, file: str) -> None:
    folder = damaged(packed, tmp_path, NORM, lambda tensor: tensor)
    content = json.loads((folder / file).read_text())
    changed = content | {"hidden_size": "wide", "max_new_tokens": {}, "num_attention_heads": None}
    (folder / file).write_text(json.dumps(changed))
    with pytest.raises(FormatError, match="transformers cannot load"):
        load(folder)
