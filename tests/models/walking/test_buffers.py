"""Buffers that a constructor computes hold what transformers computes on loading; none stays uninitialised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from compress.errors import ModelError
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.models.walking.buffers import compute_buffers, computed_buffers
from tests.support.families import save_family

CPU = torch.device("cpu")


def test_a_buffer_that_an_outer_module_fills(tmp_path: Path) -> None:
    real = save_family("falcon_h1", tmp_path)
    walker = BlockWalker(ModelSource.open(tmp_path))
    first, second = walker.load_block(0), walker.load_block(1)
    for block in (first, second):
        whole = real.get_submodule(block.name)
        assert "mamba.mup_vector" in dict(block.module.named_buffers())
        for name, buffer in block.module.named_buffers():
            assert torch.equal(buffer, whole.get_buffer(name)), name
        # computing the buffers of the second block left the weights of the first alone
        for name, parameter in block.module.named_parameters():
            assert torch.equal(parameter, whole.get_parameter(name)), name


def skeleton_with(buffer: torch.Tensor) -> LlamaForCausalLM:
    with torch.device("meta"):
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
        )
    model.model.layers[0].mlp.register_buffer("scale", buffer.to("meta"), persistent=False)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64])
def test_a_buffer_that_nobody_fills_is_refused(dtype: torch.dtype) -> None:
    model = skeleton_with(torch.ones(3, dtype=dtype))
    with pytest.raises(ModelError, match="uninitialised") as caught:
        compute_buffers(model, computed_buffers(model), CPU)
    assert caught.value.layer == "model.layers.0.mlp.scale"


def test_a_buffer_that_is_filled_in_part_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = skeleton_with(torch.ones(3))
    plain = type(model)._init_weights

    def init(self: LlamaForCausalLM, module: torch.nn.Module) -> None:
        plain(self, module)
        if "scale" in module._buffers:
            module.scale[:2] = 1.0

    monkeypatch.setattr(type(model.model), "_init_weights", init)
    with pytest.raises(ModelError, match="uninitialised"):
        compute_buffers(model, computed_buffers(model), CPU)
