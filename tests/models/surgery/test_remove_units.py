"""Which configuration or structure a pruned model gets, where a configuration class accepts not every width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compress.models import skeleton
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.models.structure import apply
from compress.models.surgery import remove_units
from compress.models.surgery.coupled import coupled
from tests.support.models import save_tiny


@pytest.mark.parametrize(
    ("kind", "lost", "in_config"),
    [
        ("llama", 1, True),
        ("falcon-40b", 1, False),  # head_dim is derived from hidden size and number of heads
        ("gpt-neox", 1, False),  # the configuration refuses a hidden size that its heads do not divide
    ],
)
def test_a_head_leaves_every_layer(tmp_path: Path, kind: str, lost: int, in_config: bool) -> None:
    source = ModelSource.open(save_tiny(tmp_path, kind))
    walker = BlockWalker(source)
    sets = coupled(walker.model, walker.block_names, ("kv",))
    removed = [torch.arange(lost) for _ in sets]
    made = remove_units.cut(sets, removed)
    outcome = remove_units.describe(source, walker.model, sets, removed, made, stock=True)
    assert bool(outcome.structure) is not in_config
    model: Any = skeleton.build(remove_units.configured(source, outcome.config))
    apply(model, outcome.structure)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes == {
        name: made.shape(name, tuple(parameter.shape)) for name, parameter in walker.model.named_parameters()
    }
