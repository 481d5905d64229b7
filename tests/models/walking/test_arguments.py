"""What the listener hears, on models that do strange things with their blocks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.models.walking.arguments import BlockArguments, Listener, same
from compress.models.walking.outputs import ABSENT, OutputForm, hidden_states, holds_absent


class ToyBlock(nn.Module):
    def forward(self, hidden_states: torch.Tensor, mask: Any = None, *, extra: Any = None) -> tuple[torch.Tensor, str]:
        return hidden_states + 1, "cache"


class Toy(nn.Module):
    """Two samples of hidden states made of the tokens; `style` says how the blocks are called."""

    def __init__(self, style: str):
        super().__init__()
        self.style = style
        self.blocks = nn.ModuleList([ToyBlock(), ToyBlock(), ToyBlock()])

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        hidden = input_ids[..., None].float().expand(-1, -1, 4)
        for index in range(3):
            if self.style == "keyword":
                hidden = self.blocks[index](mask=f"mask {index}", hidden_states=hidden, extra=use_cache)
            elif self.style == "tuple":
                hidden = self.blocks[index](hidden, f"mask {index}", extra=use_cache)[0]
            else:
                hidden = self.blocks[index](hidden, f"mask {index}", extra=use_cache)
        return SimpleNamespace(logits=hidden * 2)


def listener(style: str) -> Listener:
    form = OutputForm(tuple, ("cache",)) if style == "tuple" else OutputForm(None)
    return Listener(Toy(style), ["blocks.0", "blocks.1", "blocks.2"], [form] * 3)


TOKENS = torch.tensor([[3, 4], [5, 6]])


@pytest.mark.parametrize("style", ["tensor", "tuple", "keyword"])
def test_arguments_of_every_block_are_heard(style: str) -> None:
    heard = listener(style).arguments(TOKENS)
    assert [(*a.positional, *a.keyword.values())[0] for a in heard] == ["mask 0", "mask 1", "mask 2"]
    assert all(a.keyword["extra"] is False and "hidden_states" not in a.keyword for a in heard)


@pytest.mark.parametrize("style", ["tensor", "tuple", "keyword"])
def test_hidden_states_and_logits(style: str) -> None:
    own = listener(style)
    assert torch.equal(own.hidden(TOKENS)[..., 0], TOKENS.float())
    answer = torch.randn(2, 2, 4)
    assert torch.equal(own.logits(answer, TOKENS), answer * 2)


def test_the_blocks_are_themselves_again() -> None:
    model = Toy("tensor")
    Listener(model, ["blocks.0", "blocks.1", "blocks.2"], [OutputForm(None)] * 3).arguments(TOKENS)
    assert model.blocks[0](torch.zeros(1)) == (torch.ones(1), "cache")
    assert "forward" not in vars(model.blocks[0])


@pytest.mark.parametrize("container", [tuple, list])
def test_the_form_of_an_output_keeps_values_but_no_tensors(container: type) -> None:
    hidden = torch.ones(1, 2, 3)
    form = OutputForm.of(container([hidden, None, torch.zeros(2), "cache"]), "blocks.0")
    assert form == OutputForm(container, (None, ABSENT, "cache"))
    again = form.around(hidden * 2)
    assert type(again) is container and torch.equal(hidden_states(again, "blocks.0"), hidden * 2)
    assert holds_absent({"past": (again[2], 1)}) and not holds_absent({"past": (again[3], hidden)})
    assert OutputForm.of(hidden, "blocks.0").around(hidden) is hidden


@pytest.mark.parametrize("output", [SimpleNamespace(hidden=1), None, (), ("cache", torch.ones(1))])
def test_an_output_without_hidden_states_is_refused(output: Any) -> None:
    with pytest.raises(ModelError, match="alone or first in a tuple") as caught:
        hidden_states(output, "blocks.0")
    assert caught.value.layer == "blocks.0"


def test_recorded_values_are_compared_by_value() -> None:
    def arguments(value: Any) -> BlockArguments:
        return BlockArguments((value, None), {"pair": (torch.ones(2), value)})

    one = torch.tensor([1.0, 2.0])
    assert same(arguments(one), arguments(one.clone()))
    assert not same(arguments(one), arguments(one + 1))
    assert not same(arguments(one), arguments(None))
    assert not same({"a": 1}, {"b": 1}) and not same([1], [1, 1]) and not same(1, 2)
