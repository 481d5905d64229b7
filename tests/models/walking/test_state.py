"""What passes from block to block comes back whole from one tensor, and shared keys and values count in no norm."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch

from compress.errors import ModelError
from compress.models.walking import state
from compress.models.walking.arguments import BlockArguments
from compress.models.walking.state import Slot, StateForm

SLOTS = (Slot("shared", "local", ((2, 3), (2, 5)), 0), Slot("shared", "global", ((1, 4),), 2))


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("copies_first", [False, True])
@pytest.mark.parametrize("by_tokens", [False, True])
def test_hidden_states_keys_and_values_and_ids_come_back(copies_first: bool, by_tokens: bool) -> None:
    hidden = values(3, 2, 4, 6) if copies_first else values(2, 4, 3, 6)
    form, ids_BT = StateForm((3, 6), copies_first, SLOTS, by_tokens), torch.arange(8).view(2, 4) * 70_000
    arguments = BlockArguments((), {"shared": UserDict(), "mask": None})
    state_BTS = form.begin(hidden, ids_BT)
    assert state_BTS.shape == (2, 4, form.size)
    given = form.given(arguments, state_BTS, 0)
    assert given.keyword["shared"] == {} and given.keyword["shared"] is not arguments.keyword["shared"]
    given.keyword["shared"]["local"] = local = values(2, 2, 4, 3), values(2, 2, 4, 5)
    state_BTS = form.next(2 * hidden, state_BTS, given)
    assert arguments.keyword["shared"] == {}
    again = form.given(arguments, state_BTS, 2)
    assert again.keyword["shared"].keys() == {"local"}
    state_BTS = form.next(form.hidden(state_BTS), state_BTS, again)
    later = form.given(arguments, state_BTS, 3).keyword["shared"]
    assert all(map(torch.equal, later["local"], local)) and later["global"][0].shape == (2, 1, 4, 4)
    assert torch.equal(form.hidden(state_BTS), 2 * hidden)
    assert not by_tokens or torch.equal(form.tokens(state_BTS), ids_BT)
    torch.testing.assert_close(state_BTS.square().sum(), (2 * hidden).square().sum())


def test_gradients_reach_the_keys_and_values() -> None:
    form = StateForm((6,), slots=SLOTS[:1])
    keys = values(2, 2, 4, 3).requires_grad_()
    given = BlockArguments((), {"shared": {"local": (keys, values(2, 2, 4, 5))}})
    hidden = values(2, 4, 6)
    state_BTS = form.next(hidden, form.begin(hidden, torch.zeros(2, 4)), given)
    form.given(given, state_BTS, 1).keyword["shared"]["local"][0].square().sum().backward()
    torch.testing.assert_close(keys.grad, 2 * keys.detach())


def test_an_ordinary_state_is_the_hidden_states() -> None:
    hidden, form = values(2, 4, 6), StateForm((6,))
    assert form.begin(hidden, torch.zeros(2, 4)) is hidden and form.hidden(hidden) is hidden and form.size == 6


@pytest.mark.parametrize("value", [torch.ones(1, 2, 4, 3), (torch.ones(1, 4, 3),), (torch.ones(1, 2, 5, 3),), ()])
def test_other_values_than_keys_and_values_are_refused(value: Any) -> None:
    with pytest.raises(ModelError, match="'shared' for later blocks"):
        state.slot_of("shared", "local", value, 0, 4, "blocks.0")
