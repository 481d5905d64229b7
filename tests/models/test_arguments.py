"""What the listener hears, on models that do strange things with their blocks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.models.arguments import BlockArguments, Listener, same


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
        for index in {"reversed": (2, 1, 0), "partial": (0, 1), "twice": (0, 0, 1, 2)}.get(self.style, (0, 1, 2)):
            if self.style == "keyword":
                hidden = self.blocks[index](mask=f"mask {index}", hidden_states=hidden, extra=use_cache)
            elif self.style == "tuple":
                hidden = self.blocks[index](hidden, f"mask {index}", extra=use_cache)[0]
            else:
                hidden = self.blocks[index](hidden, f"mask {index}", extra=use_cache)
        return SimpleNamespace(logits=hidden * 2)


def listener(style: str) -> Listener:
    return Listener(Toy(style), ["blocks.0", "blocks.1", "blocks.2"])


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
    Listener(model, ["blocks.0", "blocks.1", "blocks.2"]).arguments(TOKENS)
    assert model.blocks[0](torch.zeros(1)) == (torch.ones(1), "cache")
    assert "forward" not in vars(model.blocks[0])


@pytest.mark.parametrize(
    ("style", "message"), [("reversed", "number 0"), ("partial", "only 2 of 3"), ("twice", "number 1")]
)
def test_blocks_out_of_order_are_refused(style: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        listener(style).arguments(TOKENS)


def test_recorded_values_are_compared_by_value() -> None:
    def arguments(value: Any) -> BlockArguments:
        return BlockArguments((value, None), {"pair": (torch.ones(2), value)})

    one = torch.tensor([1.0, 2.0])
    assert same(arguments(one), arguments(one.clone()))
    assert not same(arguments(one), arguments(one + 1))
    assert not same(arguments(one), arguments(None))
    assert not same({"a": 1}, {"b": 1}) and not same([1], [1, 1]) and not same(1, 2)
