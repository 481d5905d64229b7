"""Tensors nobody reads: harmless ones are dropped, extra heads carried over, everything else is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import compress
from compress.errors import ModelError
from compress.models.blocks import BlockWalker
from compress.models.load_dense import load_dense
from compress.models.source import ModelSource
from compress.runtime import load
from tests.support.models import VOCAB, save_tiny, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("proof_in_this_process")


def add(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(load_file(folder / "model.safetensors") | tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.layers.0.mlp.up_proj.weight_scale", "a statistic of a quantiser"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "Dequantise"),
        ("model.layers.0.mlp.up_proj.qweight", "a statistic of a quantiser"),
        ("model.layers.0.mlp.up_proj.weight.absmax", "a statistic of a quantiser"),
        ("score.weight", "the head of a model for another task"),
        ("v_head.summary.weight", "the head of a model for another task"),
        ("model.layers.0.mlp.up_proj.weight_mask", "Make the parametrisation permanent"),
        ("vision_tower.layers.0.weight", "a part for images or sound"),
        ("model.layers.0.self_attn.q_proj.bias", "has no such tensor"),
        ("model.layers.3.input_layernorm.weight", "has no such tensor"),
        ("something", "has no such tensor"),
    ],
)
def test_a_strange_tensor_is_refused_on_both_sides(tmp_path: Path, name: str, said: str) -> None:
    folder = add(save_tiny(tmp_path), {name: torch.ones(3)})
    with pytest.raises(ModelError, match=said) as walked:
        BlockWalker(ModelSource.open(folder))
    with pytest.raises(ModelError, match=said) as loaded:
        load_dense(folder, torch.float32)
    assert name in str(walked.value) and name in str(loaded.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.layers.0.mlp.up_proj.qweight", "a statistic of a quantiser"),
        ("model.layers.0.mlp.up_proj.weight_orig", "Make the parametrisation permanent"),
        ("module.model.layers.0.mlp.up_proj.weight", "a tensor of a wrapper"),
        ("base_model.model.model.layers.0.mlp.up_proj.weight", "merge an adapter first"),
        ("_orig_mod.model.layers.0.mlp.up_proj.weight", "a tensor of a wrapper"),
    ],
)
def test_a_strange_tensor_in_place_of_a_weight_is_named(tmp_path: Path, name: str, said: str) -> None:
    folder = save_tiny(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=said) as refused:
        BlockWalker(ModelSource.open(folder))
    assert "lacks 1 of the tensors" in str(refused.value) and name in str(refused.value)


def test_buffers_that_the_model_computes_are_dropped(tmp_path: Path) -> None:
    computed = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.layers.0.self_attn.masked_bias": torch.tensor(-1e9),
        "model.layers.0.self_attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
        "model.layers.0.mlp._extra_state": torch.zeros(0, dtype=torch.uint8),
        "model.position_ids": torch.arange(8)[None],
    }
    walker = BlockWalker(ModelSource.open(add(save_tiny(tmp_path), computed)))
    assert walker.unused_tensors == walker.extra_tensors == []


def test_an_extra_head_that_no_loader_keeps_is_left_out_with_a_warning(tmp_path: Path) -> None:
    folder = add(save_tiny(tmp_path / "tiny"), {"model.mtp.0.proj.weight": torch.ones(3, 3)})
    out = compress.run(str(folder), "rtn", suite="none", output=tmp_path / "out")
    assert "model.mtp.0.proj.weight" in out.manifest["warnings"][0]


def test_an_extra_head_that_the_loader_passes_over_is_carried_from_stage_to_stage(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Ernie4_5_MoeConfig

    config = Ernie4_5_MoeConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, moe_num_experts=4, moe_k=2, moe_intermediate_size=16, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "tiny")
    tiny_tokenizer().save_pretrained(tmp_path / "tiny")
    name, head = "model.mtp_block.0.mlp.up_proj.weight", torch.randn(3, 5).bfloat16()
    folder = add(tmp_path / "tiny", {name: head})
    first = compress.run(str(folder), "rtn", suite="none", output=tmp_path / "first", min_coverage=0)
    assert not [text for text in first.manifest["warnings"] if name in text]
    source = ModelSource.open(first.checkpoint)
    assert torch.equal(source.read(name), head) and BlockWalker(source).extra_tensors == [name]
    load(first.checkpoint)


def test_an_adapter_beside_the_model_is_applied_on_no_side(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder = save_tiny(tmp_path / "tiny")
    bare = load_dense(folder, torch.float32)
    tokens = torch.arange(4, 16)[None]
    expected = bare(tokens).logits
    lora: Any = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(bare, lora).save_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(load_dense(folder, torch.float32)(tokens).logits, expected)
    out = compress.run(str(folder), "rtn", suite="none", output=tmp_path / "out", bits=8, group_size=-1)
    assert "is not applied" in json.loads((out.checkpoint / "compress.json").read_text())["warnings"][0]
    assert not list(out.checkpoint.glob("adapter_*"))
    for file in folder.glob("adapter_*"):
        (out.checkpoint / file.name).write_bytes(file.read_bytes())
    with torch.no_grad():
        assert (load(out.checkpoint, dtype=torch.float32)(tokens).logits - expected).abs().max() < 0.1


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_what_transformers_chokes_on_is_named(tmp_path: Path, file: str) -> None:
    folder = save_tiny(tmp_path)
    (folder / file).write_text("[" * 100_000)
    with pytest.raises(ModelError, match="transformers cannot load the model in"):
        load_dense(folder, torch.float32)
