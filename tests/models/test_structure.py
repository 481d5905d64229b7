"""Coupled structures, cuts and the structure that a loader applies: a cut model computes what a zeroed one does."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.errors import FormatError, ModelError
from compress.models import skeleton, structure
from compress.models.source import ModelSource
from compress.models.structure import Structure
from compress.models.surgery import remove_units
from compress.models.surgery.coupled import coupled
from compress.models.surgery.units import Coupled, unit_parameters
from tests.support.models import save_tiny, tiny_model, tiny_tokens

ATTENTION = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "opt", "gpt2", "gpt-neox", "falcon-40b", "mixtral",
             "bigcode-heads", "xglm"]  # fmt: skip
MLP = [*ATTENTION, "falcon-7b", "falcon-alibi", "qwen3-moe", "qwen2-moe"]


def some(sets: list[Coupled], share: float = 0.5, *, of: Any = lambda one: True) -> list[torch.Tensor]:
    """Units drawn from every set that `of` names: equally many in sets of one tie."""
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randperm(one.units, generator=generator)[: math.floor(share * one.units) if of(one) else 0].sort().values
        for one in sets
    ]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tiny_tokens(2, 12), use_cache=False).logits


def zeroed(model: Any, made: remove_units.Cut) -> Any:
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(made.zeroed(name, parameter))
    return model


def rebuilt(model: Any, made: remove_units.Cut, config: Any, found: Structure) -> Any:
    """A model from its configuration and structure alone, filled with the cut parameters."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        skeletal = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    structure.apply(skeletal, Structure.from_dict(found.to_dict()))
    fresh = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32).eval()
    modules = dict(skeletal.named_modules())
    for path, module in fresh.named_modules():  # what is computed at construction comes from the fresh one
        for key, parameter in modules[path]._parameters.items():
            if parameter is not None:
                module._parameters[key] = torch.nn.Parameter(torch.empty(parameter.shape), requires_grad=False)
        for key in ("nf", "nx", "config", "normalized_shape", *structure.ATTRIBUTES):
            if key in vars(modules[path]):
                setattr(module, key, getattr(modules[path], key))
    fresh.tie_weights()
    state = {name: made.parameter(name, tensor) for name, tensor in model.named_parameters()}
    assert not fresh.load_state_dict(state, strict=False).unexpected_keys
    return fresh


def check_equivalence(folder: Path, kind: str, units: tuple[Any, ...], of: Any, stock: bool) -> remove_units.Outcome:
    source = ModelSource.open(save_tiny(folder, kind))
    model = tiny_model(kind)
    names = skeleton.find_blocks(model)
    sets = coupled(model, names, units)
    removed = some(sets, of=of)
    assert sum(map(len, removed))
    made = remove_units.cut(sets, removed)
    found = remove_units.describe(source, model, sets, removed, made, stock)
    config = type(source.config).from_dict(found.config)
    pruned = rebuilt(model, made, config, found.structure)
    torch.testing.assert_close(logits(pruned), logits(zeroed(model, made)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits(pruned), logits(model), atol=1e-3)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    left = sum(parameter.numel() for parameter in pruned.parameters())
    assert sum(map(math.prod, shapes.values())) - left == sum(
        unit_parameters(one, shapes) * len(lost) for one, lost in zip(sets, removed, strict=True)
    )
    return found


@pytest.mark.parametrize("kind", MLP)
def test_channels_of_an_mlp_leave_one_layer(tmp_path: Path, kind: str) -> None:
    found = check_equivalence(tmp_path, kind, ("mlp",), lambda one: one.block == 1, stock=False)
    assert found.structure


@pytest.mark.parametrize("kind", MLP)
def test_channels_that_leave_all_layers_are_a_matter_of_the_configuration(tmp_path: Path, kind: str) -> None:
    found = check_equivalence(tmp_path, kind, ("mlp",), lambda one: True, stock=True)
    assert not found.structure
    assert found.config != ModelSource.open(tmp_path).raw_config


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("unit", ["kv", "query"])
def test_heads_leave_one_layer(tmp_path: Path, kind: str, unit: Any) -> None:
    if unit == "query" and kind in ("opt", "gpt2", "gpt-neox", "bigcode-heads", "xglm"):
        pytest.skip("every query head has a key head of its own")
    found = check_equivalence(tmp_path, kind, (unit, "mlp"), lambda one: one.block == 1, stock=False)
    assert found.structure.attributes or kind == "gpt-neox"


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "mixtral"])
@pytest.mark.parametrize("unit", ["kv", "query"])
def test_heads_that_leave_all_layers_are_a_matter_of_the_configuration(tmp_path: Path, kind: str, unit: Any) -> None:
    found = check_equivalence(tmp_path, kind, (unit, "mlp"), lambda one: True, stock=True)
    assert not found.structure


@pytest.mark.parametrize("kind", ["gpt2", "gpt-neox", "opt"])
def test_where_no_configuration_can_say_it_a_structure_does(tmp_path: Path, kind: str) -> None:
    found = check_equivalence(tmp_path, kind, ("kv", "mlp"), lambda one: True, stock=True)
    assert found.structure and found.config == ModelSource.open(tmp_path).raw_config


@pytest.mark.parametrize("kind", ["falcon-7b", "bigcode"])
def test_query_heads_of_multi_query_attention(tmp_path: Path, kind: str) -> None:
    model = tiny_model(kind)
    sets = coupled(model, skeleton.find_blocks(model), ("kv",))
    assert {one.units for one in sets} == {1}
    check_equivalence(tmp_path, kind, ("query",), lambda one: one.block == 2, stock=False)


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "qwen3", "phi3", "mixtral", "qwen2-moe"])
def test_hidden_channels_are_cut_out_of_every_tensor(tmp_path: Path, kind: str) -> None:
    source = ModelSource.open(save_tiny(tmp_path, kind))
    model = tiny_model(kind)
    sets = coupled(model, skeleton.find_blocks(model), ("hidden",))
    removed = [torch.tensor([1, 5, 6, 30])]
    made = remove_units.cut(sets, removed)
    found = remove_units.describe(source, model, sets, removed, made, stock=True)
    assert not found.structure and found.config["hidden_size"] == 28
    pruned = rebuilt(model, made, type(source.config).from_dict(found.config), found.structure)
    assert logits(pruned).isfinite().all()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    before, after = (sum(p.numel() for p in one.parameters()) for one in (model, pruned))
    assert before - after == 4 * unit_parameters(sets[0], shapes)


def test_a_configuration_that_derives_the_head_size_cannot_lose_hidden_channels(tmp_path: Path) -> None:
    from compress.errors import MethodError

    source = ModelSource.open(save_tiny(tmp_path, "gpt2"))
    model = tiny_model("gpt2")
    sets = coupled(model, skeleton.find_blocks(model), ("hidden",))
    removed = [torch.arange(4)]
    with pytest.raises(MethodError, match="cannot express"):
        remove_units.describe(source, model, sets, removed, remove_units.cut(sets, removed), stock=True)


def test_query_heads_lie_with_their_own_key_head() -> None:
    model = tiny_model("llama")  # four query heads on two key heads of eight channels
    one = coupled(model, skeleton.find_blocks(model), ("kv",))[0]
    key, query = one.members[0], one.members[1]
    assert key.tensor.endswith("k_proj.weight") and query.tensor.endswith("q_proj.weight")
    assert key.index_UCF[1, 3].tolist() == [11]
    assert query.index_UCF[1, 3].tolist() == [19, 27]  # channel 3 of heads 2 and 3, not of 1 and 3


def test_heads_that_differ_by_their_number_stay() -> None:
    model = tiny_model("falcon-alibi")
    with pytest.raises(ModelError, match="ALiBi"):
        coupled(model, skeleton.find_blocks(model), ("kv",))


@pytest.mark.parametrize(
    ("rows", "message"), [(24, "4 query heads are not divisible by 3"), (20, "no whole number of heads of 8")]
)
def test_heads_that_do_not_go_into_groups(rows: int, message: str) -> None:
    model = tiny_model("llama")
    model.model.layers[2].self_attn.k_proj = torch.nn.Linear(32, rows)
    with pytest.raises(ModelError, match=message) as caught:
        coupled(model, skeleton.find_blocks(model), ("kv",))
    assert caught.value.layer == "model.layers.2.self_attn"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version"),
        ({"tensors": {"model.layers.9.mlp.up_proj.weight": [4, 32]}}, "no such module"),
        ({"tensors": {"model.layers.0.mlp.up_proj.bias": [4]}}, "no parameter"),
        ({"tensors": {"model.layers.0.mlp.up_proj.weight": [4]}}, "shape"),
        ({"tensors": {"model.layers.0.mlp.up_proj.weight": [49, 32]}}, "up to"),
        ({"tensors": {"model.layers.0.mlp.up_proj.weight": [0, 32]}}, "from 1"),
        ({"tensors": {"model.layers.0.mlp.up_proj.weight": [True, 32]}}, "from 1"),
        ({"attributes": {"model.layers.0.self_attn": {"forward": 1}}}, "forward"),
        ({"attributes": {"model.layers.0.self_attn": {"split_size": 8}}}, "no attribute"),
        ({"attributes": {"model.layers.0.self_attn": {"num_key_value_groups": -1}}}, "from 1"),
        ({"attributes": {"model.layers.0.nothing": {"num_key_value_groups": 1}}}, "no such module"),
        ({"more": 1}, "not an object"),
    ],
)
def test_a_structure_that_a_model_cannot_take(change: dict[str, Any], message: str) -> None:
    with torch.device("meta"):
        model = tiny_model("llama")
    with pytest.raises(FormatError, match=message):
        structure.apply(model, {"version": 1, "tensors": {}, "attributes": {}} | change)


def test_a_bias_must_fit_its_weight() -> None:
    model = skeleton.build(tiny_model("gpt2").config)
    with pytest.raises(FormatError, match="bias"):
        structure.apply(model, Structure({"transformer.h.0.mlp.c_fc.weight": (32, 64)}))
