"""Attention of one token with grouped queries: the same numbers as transformers', and the same text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from compress.runtime import attention


def tensors(tokens: int, heads: int = 6, shared: int = 3, keys: int = 11) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, heads, tokens, 8), (2, heads // shared, keys, 8), (2, heads // shared, keys, 8))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@pytest.mark.parametrize("shared", [1, 2, 3, 6])
@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_what_transformers_has(tokens: int, shared: int, masked: bool) -> None:
    module = SimpleNamespace(num_key_value_groups=shared, is_causal=True)
    query, key, value = tensors(tokens, shared=shared)
    mask = torch.rand(2, 1, tokens, 11) < 0.7 if masked else None
    if mask is not None:
        mask[..., 0] = True
    found, _ = attention.forward(module, query, key, value, mask, scaling=0.4)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.4)
    assert found.shape == expected.shape == (2, tokens, 6, 8)
    torch.testing.assert_close(found, expected)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, initializer_range=0.5,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_a_model_writes_the_same_with_it() -> None:
    model, prompt = llama(), torch.arange(2, 9)[None]
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), prompt], 1)
    padding = (padded > 0).long()
    attention.install(model)
    assert model.config._attn_implementation == attention.NAME
    assert torch.equal(model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings), expected)
    behind_padding = model.generate(padded, attention_mask=padding, **settings)
    assert torch.equal(behind_padding[:, 3:], expected)
    assert attention.NAME not in model.config.to_json_string()


def test_another_way_of_attending_is_left_alone() -> None:
    model = llama()
    model.set_attn_implementation("eager")
    attention.install(model)
    assert model.config._attn_implementation == "eager"
