"""The statistics are what the real model's linears receive, shared where the input is, whatever the micro-batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.calibration.collect import collect, input_groups
from compress.calibration.stats import LayerStats
from compress.calibration.taps import tapped
from compress.errors import CalibrationError
from compress.models import linears
from compress.models.blocks import Block, BlockWalker
from compress.models.linears import LinearRef
from compress.models.source import ModelSource
from tests.support.models import EXPERT_LAYOUTS, TINY, save_tiny, tiny_tokens

SAMPLES, LENGTH = 5, 12


def opened(folder: Path, kind: str) -> tuple[BlockWalker, torch.Tensor]:
    walker = BlockWalker(ModelSource.open(save_tiny(folder, kind)))
    return walker, walker.embed(tiny_tokens(SAMPLES, LENGTH))


def short(groups: list[list[LinearRef]]) -> list[list[str]]:
    return [[ref.name.rpartition(".")[2] for ref in group] for group in groups]


def received(model: nn.Module, names: list[str], tokens_ST: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the named linears of the whole model receive, in float64."""
    heard: dict[str, torch.Tensor] = {}

    def keep(name: str):  # type: ignore[no-untyped-def]
        return lambda _, args: heard.__setitem__(name, args[0].reshape(-1, args[0].shape[-1]).double())

    hooks = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    with torch.no_grad():
        model(input_ids=tokens_ST, use_cache=False)
    for hook in hooks:
        hook.remove()
    return heard


@pytest.mark.parametrize("kind", sorted(TINY))
def test_sums_equal_those_of_the_real_model(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM

    walker, hidden_STH = opened(tmp_path, kind)
    real = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    for index in (0, 1):
        block = walker.load_block(index)
        refs = [ref for ref in walker.linears(index) if ref.kind != "expert"]
        expected = received(real, [ref.name for ref in refs], tiny_tokens(SAMPLES, LENGTH))
        stats = collect(walker, block, refs, hidden_STH, micro_batch=2)
        for ref in refs:
            x_TK = expected[ref.name]
            assert stats[ref.name].num_tokens == len(x_TK) == SAMPLES * LENGTH
            gram_KK = x_TK.T @ x_TK
            error = (stats[ref.name].gram_KK.double() - gram_KK).norm() / gram_KK.norm()
            assert error < 1e-5, ref.name
        hidden_STH = walker.forward(block, hidden_STH, micro_batch=2)
        walker.free_block(block)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3-moe", "qwen2-moe"])
def test_sums_of_experts_equal_a_direct_computation(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForCausalLM

    walker, hidden_STH = opened(tmp_path, kind)
    real = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, experts_implementation="eager").eval()
    experts = real.model.layers[0].mlp.experts
    calls: list[tuple[torch.Tensor, ...]] = []
    experts.register_forward_pre_hook(lambda _, args: calls.append(args))
    with torch.no_grad():
        real(input_ids=tiny_tokens(SAMPLES, LENGTH), use_cache=False)
    ((x_TH, chosen_Tk, _),) = calls

    block = walker.load_block(0)
    refs = [ref for ref in walker.linears(0) if ref.kind == "expert"]
    stats = collect(walker, block, refs, hidden_STH, micro_batch=2)
    assert len({id(one) for one in stats.values()}) == len(refs)
    for ref in refs:
        _, projection, number = ref.experts
        x_RK = x_TH[(chosen_Tk == number).any(-1)]
        if projection == "down_proj":
            with torch.no_grad():
                gate, up = nn.functional.linear(x_RK, experts.gate_up_proj[number]).chunk(2, dim=-1)
                x_RK = experts.act_fn(gate) * up
        assert stats[ref.name].num_tokens == len(x_RK) > 0
        torch.testing.assert_close(stats[ref.name].gram_KK, x_RK.T @ x_RK, rtol=1e-4, atol=1e-5)
    assert sum(stats[ref.name].num_tokens for ref in refs if ".q_down_proj." in ref.name) == 2 * SAMPLES * LENGTH


@pytest.mark.parametrize("kind", sorted(EXPERT_LAYOUTS))
def test_listening_changes_nothing_and_hears_what_the_matrices_multiply(tmp_path: Path, kind: str) -> None:
    walker, hidden_STH = opened(tmp_path, kind)
    for index in range(len(walker.block_names)):
        block = walker.load_block(index)
        before = walker.call(block, hidden_STH)
        classes = [type(module) for module in block.module.modules()]
        refs = [ref for ref in walker.linears(index) if ref.kind == "expert"]
        inputs: dict[str, torch.Tensor] = {}
        with tapped(block, refs, lambda ref, x: inputs.__setitem__(ref.name, x)):  # noqa: B023
            torch.testing.assert_close(walker.call(block, hidden_STH), before)
        assert classes == [type(module) for module in block.module.modules()]
        stats = collect(walker, block, refs, hidden_STH, micro_batch=SAMPLES)
        for ref in refs:
            x_RK = inputs.get(ref.name, torch.zeros(0, ref.shape[1]))
            assert stats[ref.name].num_tokens == len(x_RK)
            torch.testing.assert_close(stats[ref.name].gram_KK, x_RK.T @ x_RK, rtol=1e-4, atol=1e-5)
        for ref in refs:  # a weight without a part of its inputs' span changes nothing but what they would multiply
            blind_KK = torch.eye(ref.shape[1]) - _span(inputs.get(ref.name, torch.zeros(0, ref.shape[1])))
            weight_NK = linears.weight(block, ref)
            linears.set_weight(block, ref, weight_NK + torch.ones(ref.shape) @ blind_KK)
        torch.testing.assert_close(walker.call(block, hidden_STH), before, rtol=1e-3, atol=1e-3)
        walker.free_block(block)
        hidden_STH = before


def _span(x_RK: torch.Tensor) -> torch.Tensor:
    """Returns the projection on what the rows span, [K, K]."""
    return (
        torch.linalg.pinv(x_RK.double()).matmul(x_RK.double()).float()
        if len(x_RK)
        else torch.zeros(x_RK.shape[1], x_RK.shape[1])
    )


@pytest.mark.parametrize("kind", ["llama", "mixtral", "gpt2"])
def test_the_micro_batch_does_not_show(tmp_path: Path, kind: str) -> None:
    walker, hidden_STH = opened(tmp_path, kind)
    block = walker.load_block(0)
    refs = walker.linears(0)
    whole = collect(walker, block, refs, hidden_STH, micro_batch=SAMPLES)
    for micro_batch in (1, 2):
        parts = collect(walker, block, refs, hidden_STH, micro_batch=micro_batch)
        for ref in refs:
            assert parts[ref.name].num_tokens == whole[ref.name].num_tokens
            torch.testing.assert_close(parts[ref.name].gram_KK, whole[ref.name].gram_KK, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]),
        ("opt", [["q_proj", "k_proj", "v_proj"], ["out_proj"], ["fc1"], ["fc2"]]),
        ("gpt2", [["c_attn"], ["c_proj"], ["c_fc"], ["c_proj"]]),
        ("phi3", [["qkv_proj"], ["o_proj"], ["gate_up_proj"], ["down_proj"]]),
        ("falcon-7b", [["query_key_value", "dense_h_to_4h"], ["dense"], ["dense_4h_to_h"]]),  # side by side
        ("mixtral", [["q_proj", "k_proj", "v_proj"], ["o_proj"], list("0123"), list("0123")]),
    ],
)
def test_groups_come_in_the_order_of_the_calls(tmp_path: Path, kind: str, expected: list[list[str]]) -> None:
    walker, hidden_STH = opened(tmp_path, kind)
    groups = input_groups(walker, walker.load_block(0), hidden_STH)
    names = short(groups)
    assert [sorted(group) for group in names] == [sorted(group) for group in expected]
    assert {ref for group in groups for ref in group} == set(walker.linears(0))


def test_linears_of_a_group_share_their_statistics(tmp_path: Path) -> None:
    walker, hidden_STH = opened(tmp_path, "llama")
    block = walker.load_block(0)
    groups = input_groups(walker, block, hidden_STH)
    stats = collect(walker, block, [ref for group in groups for ref in group], hidden_STH, micro_batch=2)
    assert [len({id(stats[ref.name]) for ref in group}) for group in groups] == [1, 1, 1, 1]
    assert len({id(one) for one in stats.values()}) == 4
    alone = collect(walker, block, groups[0][1:2], hidden_STH, micro_batch=2)
    assert torch.equal(alone[groups[0][1].name].gram_KK, stats[groups[0][0].name].gram_KK)


def test_later_groups_see_what_was_set_before(tmp_path: Path) -> None:
    walker, hidden_STH = opened(tmp_path, "mixtral")
    block = walker.load_block(0)
    groups = input_groups(walker, block, hidden_STH)
    before = collect(walker, block, groups[3], hidden_STH, micro_batch=2)
    for ref in groups[2]:
        linears.set_weight(block, ref, linears.weight(block, ref) * 2)
    after = collect(walker, block, groups[3], hidden_STH, micro_batch=2)
    for ref in groups[3]:
        assert not torch.allclose(before[ref.name].gram_KK, after[ref.name].gram_KK)
    assert not any(module._forward_pre_hooks for module in block.module.modules())
    assert walker.model.config._experts_implementation != "compress_capture"


def test_the_forward_stops_after_the_last_linear_asked_for(tmp_path: Path) -> None:
    walker, hidden_STH = opened(tmp_path, "llama")
    block = walker.load_block(0)
    groups = input_groups(walker, block, hidden_STH)
    ran: list[str] = []
    block.module.mlp.register_forward_pre_hook(lambda *_: ran.append("mlp"))  # type: ignore[union-attr]
    collect(walker, block, groups[0], hidden_STH, micro_batch=1)
    assert not ran
    collect(walker, block, groups[2], hidden_STH, micro_batch=1)
    assert len(ran) == SAMPLES


def test_an_expert_that_no_token_reaches(tmp_path: Path) -> None:
    walker, hidden_STH = opened(tmp_path, "mixtral")
    block = walker.load_block(0)
    router = block.module.get_submodule("mlp.gate")
    with torch.no_grad():  # with a positive hidden direction for two experts, two others are never chosen
        router.get_parameter("weight").zero_()
        block.module.get_parameter("post_attention_layernorm.weight").zero_()
    refs = [ref for ref in walker.linears(0) if ref.kind == "expert"]
    stats = collect(walker, block, refs, hidden_STH, micro_batch=2)
    tokens = [stats[ref.name].num_tokens for ref in refs[:4]]
    assert sorted(tokens) == [0, 0, SAMPLES * LENGTH, SAMPLES * LENGTH]
    unreached = refs[tokens.index(0)]
    assert stats[unreached.name].gram_KK.shape == (unreached.shape[1], unreached.shape[1])
    assert not stats[unreached.name].gram_KK.any()


def test_a_linear_that_is_never_called_is_reported(tmp_path: Path) -> None:
    walker, hidden_STH = opened(tmp_path, "llama")
    block = walker.load_block(0)
    mlp = block.module.get_submodule("mlp")
    mlp.forward = lambda x: mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)))  # type: ignore[assignment, operator]
    groups = input_groups(walker, block, hidden_STH)
    assert short(groups)[-2:] == [["down_proj"], ["up_proj"]]
    stats = collect(walker, block, groups[-1], hidden_STH, micro_batch=2)
    assert stats[groups[-1][0].name].num_tokens == 0


def test_inputs_that_are_not_finite_are_named(tmp_path: Path) -> None:
    walker, hidden_STH = opened(tmp_path, "llama")
    block: Block = walker.load_block(0)
    hidden_STH[1, 2, 3] = float("inf")
    with pytest.raises(CalibrationError, match="NaN or infinite") as caught:
        collect(walker, block, walker.linears(0)[:1], hidden_STH, micro_batch=2)
    assert caught.value.layer == "model.layers.0.self_attn.q_proj"


def test_statistics_of_shards_add_up() -> None:
    x_TK = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    whole, first, second = (LayerStats.empty(4) for _ in range(3))
    whole.update(x_TK)
    first.update(x_TK[:3])
    second.update(x_TK[3:].reshape(7, 1, 4))
    merged = first + second
    assert merged.num_tokens == whole.num_tokens == 10 and first.num_tokens == 3
    torch.testing.assert_close(merged.gram_KK, whole.gram_KK)


def test_two_modules_of_experts_in_one_block(tmp_path: Path) -> None:
    walker, hidden_STH = opened(tmp_path, "mixtral")
    block = walker.load_block(0)
    first = block.module.get_submodule("mlp.experts")
    second = copy.deepcopy(first)
    block.module.get_submodule("mlp").register_module("again", second)
    usual = block.module.mlp.forward  # type: ignore[union-attr]
    block.module.mlp.forward = lambda x: usual(x) + _twice(block.module.mlp, second, x)  # type: ignore[union-attr]
    refs = [ref for ref in walker.linears(0) if ref.kind == "expert"]
    stats = collect(walker, block, refs, hidden_STH, micro_batch=2)
    for ref in refs:
        if ".again." in ref.name:
            twin = stats[ref.name.replace(".again.", ".experts.")]
            torch.testing.assert_close(stats[ref.name].gram_KK, twin.gram_KK, rtol=1e-5, atol=1e-6)
            assert stats[ref.name].num_tokens == twin.num_tokens > 0


def _twice(mlp: Any, experts: nn.Module, x_BTH: torch.Tensor) -> torch.Tensor:
    x_TH = x_BTH.reshape(-1, x_BTH.shape[-1])
    _, weights_Tk, chosen_Tk = mlp.gate(x_TH)
    return experts(x_TH, chosen_Tk, weights_Tk).reshape(x_BTH.shape)  # type: ignore[no-any-return]
