"""The commands of the cookbook are planned on small models of the families that they name."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import click
import pytest

from compress import pipeline
from compress.cli import group
from compress.cli.run import recipe_from
from compress.cli.shared.method_options import given_flags
from compress.recipe import Recipe
from tests.support.models import save_tiny
from tests.test_docs import ROOT, blocks

MODELS = {
    "meta-llama/Llama-3.2-1B-Instruct": ("llama", "LlamaForCausalLM"),
    "Qwen/Qwen3-0.6B": ("qwen3", "Qwen3ForCausalLM"),
    "google/gemma-3-1b-it": ("gemma3", "Gemma3ForCausalLM"),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": ("mixtral", "MixtralForCausalLM"),
    "microsoft/Phi-4-mini-instruct": ("phi3", "Phi3ForCausalLM"),
}
SHAPE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "max_position_embeddings": 512}
LINES = [
    line
    for block in blocks(ROOT / "docs/how-to/cookbook.md", "bash")
    for line in block.splitlines()
    if any(line.startswith(f"compress run {model}") for model in MODELS)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model with random weights for every hub id."""
    folder = tmp_path_factory.mktemp("models")
    return {model: save_tiny(folder / kind, kind, **SHAPE) for model, (kind, _) in MODELS.items()}


def recipe_of(line: str) -> Recipe:
    run = group.get_command(click.Context(group), "run")
    assert run is not None
    return recipe_from(given_flags(run.make_context("run", shlex.split(line, comments=True)[2:])))


def test_every_family_has_commands() -> None:
    assert {recipe_of(line).model for line in LINES} == set(MODELS) and len(LINES) >= 10


@pytest.mark.parametrize("line", LINES)
def test_the_command_is_planned(line: str, folders: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_of(line)
    small = dataclasses.replace(recipe, model=str(folders[recipe.model]), output=str(tmp_path / "out"), suite="none")
    plan = pipeline.plan(small)
    assert plan.packed_parameters > 0 and plan.peak_memory_bytes > 0
