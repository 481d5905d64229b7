"""Where the rows of linears lie in checkpoints on the hub, against the tensors that transformers saves."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from compress.format import naming
from compress.models import hub_names
from compress.models.linears import is_conv1d, is_linear
from compress.models.moe.layouts import expert_layout
from tests.support.packed_checkpoints import CONFIGS, tiny


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Returns the weight of every linear, those of experts by number, float [N, K]."""
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if is_linear(module):
            weight = module.get_parameter("weight").detach()
            found[name] = weight.T if is_conv1d(module) else weight
        for stack in layout.stacks if (layout := expert_layout(module)) is not None else ():
            matrices = module.get_parameter(stack.parameter).detach().view(-1, *stack.held)
            for number in range(stack.experts):
                matrix = matrices[number]
                found[naming.expert(name, stack.parameter, number)] = matrix.T if stack.transposed else matrix
    return found


@pytest.mark.parametrize("architecture", CONFIGS)
def test_rows_lie_where_transformers_saves_them(architecture: str) -> None:
    model = tiny(architecture)
    saved = hub_names.as_stored(model, model.state_dict())
    linears = weights(model)
    places = hub_names.places(model, linears)
    assert places.keys() == linears.keys()
    for name, parts in places.items():
        for place in parts:
            stored = saved[f"{place.name}.weight"]
            conv1d = naming.parse_expert(name) is None and is_conv1d(model.get_submodule(name))
            rows = stored.T if conv1d else stored
            assert torch.equal(rows, linears[name][place.start : place.stop]), (name, place)
        if parts:
            assert [part.start for part in parts] + [len(linears[name])] == [0] + [part.stop for part in parts]
        else:
            assert naming.parse_expert(name), f"{name} is in no matrix of its own"


def test_gate_and_up_of_an_expert_are_two_matrices() -> None:
    names = [f"model.layers.0.mlp.experts.q_gate_up_proj.{number}" for number in range(4)]
    first, second = hub_names.places(tiny("mixtral"), names)[names[2]]
    assert first == ("model.layers.0.block_sparse_moe.experts.2.w1", 0, 48)
    assert second == ("model.layers.0.block_sparse_moe.experts.2.w3", 48, 96)


def test_tensors_that_the_model_does_not_have_stay_as_they_are() -> None:
    extra = {"mtp.layers.0.mlp.experts.gate_up_proj": torch.zeros(1), "model.layers.9.mlp.gate.weight": torch.ones(1)}
    assert hub_names.as_stored(tiny("mixtral"), extra).keys() == extra.keys()
