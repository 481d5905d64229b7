"""Gradients through a packed model: with gradient checkpointing, with adapters of peft, with transformers' Trainer."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import compress
import compress.hf  # from_pretrained reads packed folders
from compress.errors import ModelError
from compress.kernels.select import FORCE
from compress.runtime.linear import PackedLinear
from tests.support.packed_checkpoints import Packed


def input_gradient(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    embedded = model.get_input_embeddings()(tokens).detach().requires_grad_()
    model(inputs_embeds=embedded, labels=tokens, use_cache=False).loss.backward()
    assert embedded.grad is not None
    return embedded.grad


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@pytest.mark.parametrize("kernel", ["native", "reference"])
@pytest.mark.parametrize("keep_prepared", [True, False])
def test_gradients_with_checkpointing(
    make: Callable[..., Packed], tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch, kernel: str, keep_prepared: bool
) -> None:
    monkeypatch.setenv(FORCE, kernel)
    model = compress.load(make("llama").folder, dtype=torch.float32, keep_prepared=keep_prepared).train()
    expected = input_gradient(model, tokens)
    for reentrant in (True, False):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.testing.assert_close(input_gradient(model, tokens), expected)


def adapted(packed: Packed, **options: object) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(packed.folder, dtype=torch.float32)
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, **options))


@pytest.mark.parametrize(
    ("architecture", "targets", "wrapped"),
    [("llama", ["q_proj"], 2), ("llama", "all-linear", 14), ("gpt2", ["c_attn"], 2), ("mixtral", "all-linear", 8)],
)
def test_lora_on_packed_linears(
    make: Callable[..., Packed], tokens: torch.Tensor, tmp_path: Path, architecture: str, targets: object, wrapped: int
) -> None:
    """The adapted packed model is the adapted dense model; its adapter is saved and loaded; only it is trained."""
    packed = make(architecture)
    model = adapted(packed, target_modules=targets)
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLayer)]
    assert sum(isinstance(layer.get_base_layer(), PackedLinear) for layer in layers) == wrapped
    model(tokens, labels=tokens).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
    with torch.no_grad():
        logits = model(tokens).logits
        assert not torch.allclose(logits, packed.dense(tokens).logits, atol=1e-3)
        model.save_pretrained(tmp_path / "adapter")
        if architecture != "mixtral":  # there peft adapts the fused parameters of dense experts as well
            dense = PeftModel.from_pretrained(copy.deepcopy(packed.dense), tmp_path / "adapter")
            torch.testing.assert_close(dense(tokens).logits, logits, rtol=1e-4, atol=1e-4)
        again = PeftModel.from_pretrained(compress.load(packed.folder, dtype=torch.float32), tmp_path / "adapter")
        assert torch.equal(again(tokens).logits, logits)


def test_merging_into_packed_linears_is_refused(make: Callable[..., Packed]) -> None:
    model = adapted(make("llama"), target_modules=["q_proj"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for merge in (model.merge_and_unload, model.merge_adapter, lambda: model.merge_and_unload(safe_merge=True)):
        with pytest.raises(ModelError, match=r"cannot be merged into a packed linear.*compress that again"):
            merge()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    unloaded = model.unload()
    assert isinstance(unloaded.model.layers[0].self_attn.q_proj, PackedLinear)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (LoraConfig(target_modules=["q_proj"], use_dora=True), "DoRA"),
        (LoraConfig(target_modules=["q_proj"], init_lora_weights="pissa"), "LoRA started by pissa"),
        (LoHaConfig(target_modules=["q_proj"]), "LOHA"),
    ],
    ids=["dora", "pissa", "loha"],
)
def test_adapters_that_read_the_dense_weight_are_refused(
    make: Callable[..., Packed], config: PeftConfig, kind: str
) -> None:
    packed = make("llama")
    with pytest.raises(ModelError, match=f"{kind} computes with the dense weight.*plain LoRA") as caught:
        get_peft_model(compress.load(packed.folder, dtype=torch.float32), config)
    assert caught.value.layer == "model.layers.0.self_attn.q_proj"
    get_peft_model(copy.deepcopy(packed.dense), config)  # of a dense model it is peft's own business


def test_ia3_scales_the_outputs_of_packed_linears(make: Callable[..., Packed], tokens: torch.Tensor) -> None:
    packed = make("llama")
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    model = get_peft_model(compress.load(packed.folder, dtype=torch.float32), config)
    torch.testing.assert_close(model(tokens).logits, packed.dense(tokens).logits)


def test_merging_into_dense_linears_still_works(make: Callable[..., Packed], tokens: torch.Tensor) -> None:
    packed = make("llama")
    model = get_peft_model(copy.deepcopy(packed.dense), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(tokens).logits, packed.dense(tokens).logits)


def test_peft_that_is_imported_later_is_guarded_too(make: Callable[..., Packed]) -> None:
    """The quantizer does not import peft; a process that imports it after loading is refused the merge as well."""
    code = f"""
import sys, torch, compress
from compress.errors import ModelError
model = compress.load({str(make("llama").folder)!r}, dtype=torch.float32)
assert not any(name.split(".")[0] == "peft" for name in sys.modules), "loading imported peft"
from peft import LoraConfig, get_peft_model
try:
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).merge_and_unload()
except ModelError:
    print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "refused"


def arguments(folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder), max_steps=2, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True,
        per_device_train_batch_size=2, learning_rate=1e-2, logging_strategy="no",
    )  # fmt: skip


def test_the_trainer_trains_adapters(make: Callable[..., Packed], tokens: torch.Tensor, tmp_path: Path) -> None:
    model = adapted(make("llama"), target_modules="all-linear")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    Trainer(model=model, args=arguments(tmp_path), train_dataset=rows).train()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all("lora_" in name for name in changed)


def test_the_trainer_evaluates_a_packed_model(
    make: Callable[..., Packed], tokens: torch.Tensor, tmp_path: Path
) -> None:
    packed = make("llama")
    model = AutoModelForCausalLM.from_pretrained(packed.folder, dtype=torch.float32)
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    loss = Trainer(model=model, args=arguments(tmp_path), eval_dataset=rows).evaluate()["eval_loss"]
    assert loss == pytest.approx(packed.dense(tokens, labels=tokens).loss.item(), rel=1e-5)
