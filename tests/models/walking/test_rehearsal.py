"""Whether a model can be walked block by block is found out before any work, on models that do strange things."""

from __future__ import annotations

import pytest
import torch

from compress.errors import ModelError
from compress.models.walking.outputs import ABSENT, OutputForm
from compress.models.walking.rehearsal import Rehearsal, rehearse
from compress.models.walking.state import StateForm
from tests.support.families import ToyModel

NAMES = ["blocks.0", "blocks.1", "blocks.2"]


def rehearsed(style: str = "", block_style: str = "") -> Rehearsal:
    """The rehearsal of a toy whose blocks are on meta."""
    model = ToyModel(style, block_style)
    model.blocks.to("meta")
    before = dict(model.named_parameters())
    found = rehearse(model, NAMES, [3, 5], torch.device("cpu"))  # type: ignore[arg-type]
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert not any("forward" in vars(module) for module in model.modules())
    return found


def test_an_ordinary_model() -> None:
    assert rehearsed() == Rehearsal((OutputForm(None),) * 3, frozenset(), StateForm((8,)))


def test_arguments_that_depend_on_the_tokens_are_noticed() -> None:
    assert rehearsed("first").state.by_tokens


def test_what_a_block_returns_beside_its_hidden_states_does_not_matter_where_nobody_uses_it() -> None:
    assert rehearsed(block_style="returns state").forms == (OutputForm(tuple, (ABSENT,)),) * 3


@pytest.mark.parametrize(
    ("style", "block_style", "message", "layer"),
    [
        ("reversed", "", "expected blocks.0, got blocks.2", "blocks.2"),
        ("twice", "", "expected blocks.1, got blocks.0", "blocks.0"),
        ("looped", "", "expected the end, got blocks.0", "blocks.0"),
        ("partial", "", "only 2 of 3", None),
        ("scaled", "", "something else than the hidden states", "blocks.1"),
        ("state", "returns state", "besides the hidden states from the block before it", "blocks.1"),
        ("skip", "", "more than the last block", "blocks.2"),
        ("transposed", "", r"shape \[4, 1, 8\] for 1 text of 4 tokens", "blocks.0"),
        ("", "fails", "IndexError: no such expert", "blocks.0"),
        ("", "narrow", r"shape \[1, 4, 4\] for \[1, 4, 8\]", "blocks.0"),
    ],
)
def test_what_cannot_be_walked_is_refused_with_the_cause(
    style: str, block_style: str, message: str, layer: str | None
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        rehearsed(style, block_style)
    assert caught.value.layer == layer


@pytest.mark.parametrize("style", ["reads up", "reads the dtype of up", "reads the shape of up"])
def test_a_weight_that_a_block_reads_beside_calling_its_linear(style: str) -> None:
    assert rehearsed(block_style=style).read_directly == {f"{name}.up.weight" for name in NAMES}


def test_a_weight_that_the_model_changes_around_its_blocks() -> None:
    with torch.no_grad():
        assert rehearsed("rescales").read_directly == {"blocks.1.down.weight"}
