"""A model of images and text: its decoder is packed, the rest is carried over, its own auto class loads it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
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


def test_the_decoder_is_packed_and_the_tower_carried_over(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

    dense_folder, out = tmp_path / "model", tmp_path / "packed"
    save_family("llava", dense_folder)
    compress.run(str(dense_folder), method="rtn", bits=8, group_size=16, output=str(out), suite="none")
    dense, packed = tensors(dense_folder), tensors(out)
    tower = {name for name in packed if "vision" in name or "projector" in name}
    assert len(tower) > 20
    for name in tower:
        origin = next(value for other, value in dense.items() if name.endswith(other.removeprefix("model.")))
        assert torch.equal(packed[name], origin)
    config = json.loads((out / "config.json").read_text())
    assert config["vision_config"] == json.loads((dense_folder / "config.json").read_text())["vision_config"]
    loaded = compress.load(out)
    assert isinstance(loaded, LlavaForConditionalGeneration)
    assert not any("vision" in name for name in config["quantization_config"]["tensors"])
    tokens_ST = torch.arange(3, 12)[None]
    again = AutoModelForImageTextToText.from_pretrained(out).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(input_ids=tokens_ST).logits, again(input_ids=tokens_ST).logits)


def test_a_stand_in_has_no_marks_of_loaded_tensors() -> None:
    stack = Stack("gate_up_proj", 2, (4, 4))
    assert not hasattr(StackStandIn(stack, lambda expert, x: x, torch.empty(0)), "_is_hf_initialized")
