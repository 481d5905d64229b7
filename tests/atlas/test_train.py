"""Training: reproducible and resumable to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compress.atlas.train import Recipe, Trainer

TINY = Recipe(
    steps=6,
    batch=2,
    window=64,
    tokenizer_documents=200,
    shape={"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
)


def _trainer(folder: Path, recipe: Recipe = TINY) -> Trainer:
    return Trainer(recipe, folder, "cpu", compiled=False)


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    whole = _trainer(tmp_path / "whole")
    whole.run(report_every=6)
    _trainer(tmp_path / "parts").run(until=3)
    resumed = _trainer(tmp_path / "parts")
    assert resumed.step == 3
    resumed.run()
    assert resumed.step == 6
    for name, weight in whole.masters.items():
        assert torch.equal(weight, resumed.masters[name]), name
    first, second = (tmp_path / part / "model" / "model.safetensors" for part in ("whole", "parts"))
    assert first.read_bytes() == second.read_bytes()


def test_another_recipe_is_refused(tmp_path: Path) -> None:
    _trainer(tmp_path).run(until=1)
    with pytest.raises(ValueError, match="another recipe"):
        _trainer(tmp_path, replace(TINY, seed=2))


def test_rate_ends_at_zero() -> None:
    recipe = Recipe()
    assert recipe.rate(recipe.steps // 4) == 1.0
    assert 0 < recipe.rate(recipe.steps - 1) < 0.01
    assert recipe.rate(0) < 0.05
