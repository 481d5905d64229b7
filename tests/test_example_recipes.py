"""The recipes of `examples/` on atlas, in a size for tests: every stage leaves a checkpoint that loads."""

import dataclasses
from pathlib import Path

import pytest
import torch

import compress
from compress.recipe import Recipe
from compress.runtime import load
from compress.stages.folders import folders

FOLDER = Path(__file__).parents[1] / "examples" / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.toml") if len(Recipe.from_toml(path).stages) > 1)
SMALL = {
    "distill": {"steps": 2, "batch": 2},
    "ast": {"steps": 2, "batch": 2},
    "llm_pruner": {"steps": 1},
    "aqlm": {"codebooks": 1, "beam_width": 1, "rounds": 1},
}


def small(path: Path, output: Path) -> Recipe:
    recipe = Recipe.from_toml(path)
    stages = tuple(
        dataclasses.replace(
            stage, options={**stage.options, **SMALL.get(stage.method, {})}, calibration={"samples": 6, "seq_len": 48}
        )
        for stage in recipe.stages
    )
    return dataclasses.replace(recipe, stages=stages, output=str(output), limit=2)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, proof_in_this_process):
    recipe = small(path, tmp_path / "out")
    result = compress.run(recipe)
    assert result.evaluation is not None and result.evaluation.divergence is not None
    assert 0 < result.evaluation.divergence.mean < 10
    tokens = torch.arange(3, 15)[None]
    logits = [load(folder)(tokens).logits.float() for folder in folders(recipe)]
    assert all(one.isfinite().all() for one in logits)
    for stage, folder in zip(recipe.stages, folders(recipe), strict=True):
        assert f"{stage.method}" in (folder / "compress.json").read_text()
