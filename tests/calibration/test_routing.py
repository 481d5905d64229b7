"""What experts add to their sum, against a direct computation."""

import pytest
import torch
from torch import nn

from compress.calibration.routing import contributions
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from tests.support.models import save_tiny, tiny_tokens


@pytest.mark.parametrize("kind", ["mixtral", "qwen3-moe", "qwen2-moe"])
def test_against_a_direct_computation(tmp_path, kind):
    from transformers import AutoModelForCausalLM

    tokens = tiny_tokens(5, 12)
    walker = BlockWalker(ModelSource.open(save_tiny(tmp_path, kind)))
    real = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, experts_implementation="eager").eval()
    experts = real.model.layers[0].mlp.experts
    calls = []
    experts.register_forward_pre_hook(lambda _, args: calls.append(args))
    with torch.no_grad():
        real(input_ids=tokens, use_cache=False)
    ((x_TH, chosen_Tk, weights_Tk),) = calls
    found = contributions(walker, walker.load_block(0), walker.linears(0), walker.embed(tokens), micro_batch=2)
    assert len(found) == 4
    for (path, number), energy in found.items():
        assert path == "model.layers.0.mlp.experts"
        rows, slots = torch.where(chosen_Tk == number)
        with torch.no_grad():
            gate, up = nn.functional.linear(x_TH[rows], experts.gate_up_proj[number]).chunk(2, dim=-1)
            y_RH = nn.functional.linear(experts.act_fn(gate) * up, experts.down_proj[number])
        assert energy == pytest.approx(float((weights_Tk[rows, slots, None] * y_RH).square().sum()), rel=1e-4)


def test_an_expert_that_no_token_reaches_counts_one_token(tmp_path):
    walker = BlockWalker(ModelSource.open(save_tiny(tmp_path, "mixtral")))
    block = walker.load_block(0)
    with torch.no_grad():
        block.module.get_submodule("mlp.gate").get_parameter("weight").zero_()
    hidden_STH = walker.embed(tiny_tokens(5, 12))
    energy = sorted(contributions(walker, block, walker.linears(0), hidden_STH, micro_batch=2).values())
    assert energy[0] == energy[1] == pytest.approx((energy[2] + energy[3]) / (2 * 5 * 12))
    assert contributions(walker, block, [], hidden_STH, micro_batch=2) == {}
