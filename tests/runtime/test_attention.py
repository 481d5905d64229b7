"""Attention of one token with grouped queries: the same numbers as transformers', and the same text."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, DeepseekV32Config, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

from compress.runtime import attention


def tensors(tokens: int, heads: int = 6, shared: int = 3, keys: int = 11) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, heads, tokens, 8), (2, heads // shared, keys, 8), (2, heads // shared, keys, 8))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


@pytest.mark.parametrize("shared", [1, 2, 3, 6])
@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_what_transformers_has(tokens: int, shared: int, masked: bool) -> None:
    module = attention_module(shared)
    query, key, value = tensors(tokens, shared=shared)
    mask = torch.rand(2, 1, tokens, 11) < 0.7 if masked else None
    if mask is not None:
        mask[..., 0] = True
    found, _ = attention.forward(module, query, key, value, mask, scaling=0.4)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.4)
    assert found.shape == expected.shape == (2, tokens, 6, 8)
    torch.testing.assert_close(found, expected)


def attention_module(groups: int) -> nn.Module:
    """Returns a marked module, as `install` leaves the attention of a model."""
    module = nn.Module()
    module.num_key_value_groups, module.is_causal = groups, True
    attention.install(module)
    return module


def llama(**values: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, initializer_range=0.5, **values,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def grouped_calls(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Collects the modules for which queries were computed side by side."""
    calls: list[nn.Module] = []
    real = attention._one_grouped_token

    def spy(module: nn.Module, query: torch.Tensor, key: torch.Tensor) -> bool:
        if grouped := real(module, query, key):
            calls.append(module)
        return grouped

    monkeypatch.setattr(attention, "_one_grouped_token", spy)
    return calls


def test_a_model_writes_the_same_with_it(grouped_calls: list[nn.Module]) -> None:
    model, prompt = llama(), torch.arange(2, 9)[None]
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), prompt], 1)
    padding = (padded > 0).long()
    assert not grouped_calls
    attention.install(model)
    assert torch.equal(model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings), expected)
    assert len(grouped_calls) == 2 * 19, "both layers, every token after the first"
    grouped_calls.clear()
    behind_padding = model.generate(padded, attention_mask=padding, **settings)
    assert torch.equal(behind_padding[:, 3:], expected)
    assert not grouped_calls, "a mask is left to transformers"


@pytest.mark.parametrize("chosen", ["eager", "sdpa"])
def test_the_choice_of_the_model_stays_visible(chosen: str, grouped_calls: list[nn.Module]) -> None:
    model = llama(attn_implementation=chosen)
    attention.install(model)
    assert model.config._attn_implementation == chosen
    model(torch.tensor([[3]]))
    assert bool(grouped_calls) == (chosen == "sdpa")


def test_other_models_and_later_choices_are_left_alone(grouped_calls: list[nn.Module]) -> None:
    model, other = llama(), llama()
    attention.install(model)
    other(torch.tensor([[3]]))
    model.set_attn_implementation("eager")
    model(torch.tensor([[3]]))
    assert not grouped_calls
    model.set_attn_implementation("sdpa")
    model(torch.tensor([[3]]))
    assert len(grouped_calls) == 2
    attention.uninstall(model)
    model(torch.tensor([[3]]))
    assert len(grouped_calls) == 2


def test_the_function_of_another_package_is_kept() -> None:
    def theirs(*arguments: object, **options: object) -> tuple[torch.Tensor, None]:
        return sdpa_attention_forward(*arguments, **options)

    before = AttentionInterface._global_mapping["sdpa"]
    AttentionInterface.register("sdpa", theirs)
    try:
        attention.install(llama())
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is theirs
    finally:
        AttentionInterface.register("sdpa", before)


@pytest.mark.parametrize("length", [10, 20])
def test_sparse_attention_keeps_its_mask(length: int) -> None:
    """Its mask is built only where the configuration says `eager` or `sdpa`, and matters above `index_topk` tokens."""
    torch.manual_seed(0)
    config = DeepseekV32Config(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
        index_topk=12, index_n_heads=2, index_head_dim=16, n_routed_experts=2, num_experts_per_tok=1,
        moe_intermediate_size=16, first_k_dense_replace=1, n_group=1, topk_group=1, initializer_range=0.5,
        max_position_embeddings=64,
    )  # fmt: skip
    model, tokens = AutoModelForCausalLM.from_config(config).eval(), torch.arange(length)[None]
    attention.install(model)
    with torch.no_grad():
        found = model(tokens).logits
        model.set_attn_implementation("eager")
        torch.testing.assert_close(found, model(tokens).logits, rtol=0, atol=1e-4)
