"""A model of images and text: its decoder is packed, the rest is carried over, its own auto class loads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open

import compress
from compress.models.moe.layouts import Stack
from compress.models.moe.stand_in import StackStandIn
from tests.support.families import save_family


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize(
    ("family", "tower", "auto", "least"),
    [("llava", "vision", "AutoModelForImageTextToText", 20), ("qwen2_audio", "audio", "AutoModelForMultimodalLM", 10)],
)
def test_the_decoder_is_packed_and_the_tower_carried_over(
    tmp_path: Path, proof_in_this_process: None, family: str, tower: str, auto: str, least: int
) -> None:
    dense_folder, out = tmp_path / "model", tmp_path / "packed"
    real = save_family(family, dense_folder)
    compress.run(str(dense_folder), method="rtn", bits=8, group_size=16, output=str(out), suite="none")
    dense, packed = tensors(dense_folder), tensors(out)
    carried = {name for name in packed if tower in name or "projector" in name}
    assert len(carried) > least
    for name in carried:
        origin = next(value for other, value in dense.items() if name.endswith(other.removeprefix("model.")))
        assert torch.equal(packed[name], origin)
    config = json.loads((out / "config.json").read_text())
    assert config[f"{tower}_config"] == json.loads((dense_folder / "config.json").read_text())[f"{tower}_config"]
    loaded = compress.load(out)
    assert type(loaded) is type(real)
    assert not any(tower in name for name in config["quantization_config"]["tensors"])
    tokens_ST = torch.arange(3, 12)[None]
    again = getattr(transformers, auto).from_pretrained(out).eval()
    assert type(again) is type(real)
    with torch.inference_mode():
        assert torch.equal(loaded(input_ids=tokens_ST).logits, again(input_ids=tokens_ST).logits)


def test_a_stand_in_is_not_initialised() -> None:
    """transformers does so with the experts of Qwen3-Omni while it loads them."""
    stand_in = StackStandIn(Stack("gate_up_proj", 2, (4, 4)), lambda expert, x: x, torch.empty(0))
    assert torch.nn.init.normal_(stand_in, mean=0.0, std=0.02) is stand_in
    assert torch.nn.init.normal_(tensor=stand_in, mean=0.0, std=0.02) is stand_in


def test_a_stand_in_has_no_marks_of_loaded_tensors() -> None:
    stack = Stack("gate_up_proj", 2, (4, 4))
    assert not hasattr(StackStandIn(stack, lambda expert, x: x, torch.empty(0)), "_is_hf_initialized")
