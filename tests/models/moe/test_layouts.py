"""Experts in every layout are found, read and written as [N, K] matrices; what does not fit its marks is not taken."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.models import linears
from compress.models.blocks import BlockWalker
from compress.models.moe.layouts import ExpertLayout, Stack, expert_layout, refusal
from compress.models.moe.routers import find_routers
from compress.models.source import ModelSource
from compress.models.stored import WeightReader
from tests.support.models import EXPERT_LAYOUTS, save_tiny, tiny_model

GATED = (Stack("gate_up_proj", 4, (96, 32)), Stack("down_proj", 4, (32, 48)))
TRANSPOSED = tuple(Stack(stack.parameter, 4, stack.shape, transposed=True) for stack in GATED)
EXPECTED = {
    "gpt-oss": {"layers.0.mlp.experts": ExpertLayout(TRANSPOSED, interface=True)},
    "llama4": {"model.layers.1.feed_forward.experts": ExpertLayout(TRANSPOSED, interface=False)},
    "jetmoe": {
        "layers.0.mlp.input_linear": ExpertLayout((Stack("weight", 4, (96, 32)),), interface=False),
        "layers.0.mlp.output_linear": ExpertLayout((Stack("weight", 4, (32, 48)),), interface=False),
        "layers.0.self_attention.experts.input_linear": ExpertLayout((Stack("weight", 4, (16, 32)),), interface=False),
    },
    "dbrx": {
        "blocks.0.ffn.experts.mlp": ExpertLayout(
            (
                Stack("w1", 4, (24, 32), flat=True),
                Stack("v1", 4, (24, 32), flat=True),
                Stack("w2", 4, (32, 24), transposed=True, flat=True),
            ),
            interface=False,
        )
    },
    "nemotron-h": {
        "layers.1.mixer.experts": ExpertLayout(
            (Stack("up_proj", 4, (16, 32)), Stack("down_proj", 4, (32, 16))), interface=True
        )
    },
    "longcat": {
        "layers.0.mlp.experts": ExpertLayout(
            (Stack("gate_up_proj", 6, (32, 32)), Stack("down_proj", 4, (32, 16))), interface=False
        )
    },
    "granitemoe": {"layers.1.block_sparse_moe.experts": ExpertLayout(GATED, interface=True)},
}
ROUTERS = {"gpt-oss": 2, "llama4": 1, "jetmoe": 4, "dbrx": 2, "nemotron-h": 1, "granitemoe": 2, "longcat": 1}


@pytest.mark.parametrize("kind", EXPERT_LAYOUTS)
def test_the_layout_is_found(kind: str) -> None:
    model = tiny_model(kind).base_model
    for path, layout in EXPECTED[kind].items():
        assert expert_layout(model.get_submodule(path)) == layout
    assert len(find_routers(model)) == ROUTERS[kind]


@pytest.mark.parametrize("kind", EXPERT_LAYOUTS)
def test_weights_are_read_and_set_whatever_way_round(kind: str, tmp_path: Path) -> None:
    source = ModelSource.open(save_tiny(tmp_path, kind, dtype=torch.float16))
    walker = BlockWalker(source)
    reader = WeightReader(source, walker.read_dense)
    for index, name in enumerate(walker.block_names):
        read = {ref.name: reader.read(walker.stored(ref)) for ref in walker.linears(index)}
        block = walker.load_block(index)
        refs = walker.linears(index)
        experts = [ref for ref in refs if ref.kind == "expert"]
        for ref in refs:
            weight_NK = linears.weight(block, ref)
            assert weight_NK.shape == ref.shape and torch.equal(weight_NK, read[ref.name])
        whole = linears.parameters(refs, {ref.name: linears.weight(block, ref) for ref in refs})
        for parameter, value in whole.items():
            assert torch.equal(value, block.module.get_parameter(parameter.removeprefix(f"{name}.")))
        if experts:
            before = [linears.weight(block, ref) for ref in experts]
            linears.set_weight(block, experts[-2], torch.ones(experts[-2].shape))
            after = [linears.weight(block, ref) for ref in experts]
            same = [torch.equal(one, other) for one, other in zip(before, after, strict=True)]
            assert same == [True] * (len(experts) - 2) + [False, True] and bool((after[-2] == 1).all())
        walker.free_block(block)


@pytest.mark.parametrize(
    ("kind", "path", "attribute", "value"),
    [
        ("granitemoe", "layers.0.block_sparse_moe.experts", "has_bias", True),
        ("granitemoe", "layers.0.block_sparse_moe.experts", "is_transposed", True),
        ("granitemoe", "layers.0.block_sparse_moe.experts", "is_concatenated", False),
        ("granitemoe", "layers.0.block_sparse_moe.experts", "has_gate", False),
        ("gpt-oss", "layers.0.mlp.experts", "has_bias", False),
        ("gpt-oss", "layers.0.mlp.experts", "is_transposed", False),
        ("jetmoe", "layers.0.mlp.input_linear", "output_size", 32),
        ("dbrx", "blocks.0.ffn.experts.mlp", "moe_num_experts", 2),
        ("llama4", "model.layers.1.feed_forward.experts", "another", nn.Parameter(torch.ones(4, 4))),
    ],
)
def test_what_does_not_fit_its_marks_is_not_taken(kind: str, path: str, attribute: str, value: object) -> None:
    module = tiny_model(kind).base_model.get_submodule(path)
    assert expert_layout(module) is not None
    setattr(module, attribute, value)
    assert expert_layout(module) is None
    assert type(module).__name__ in refusal(module)
    assert not [ref for ref in linears.find_linears(module, "experts")]
