"""The command that repeats a run is one that `compress run` takes, and asks for the same recipe."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from compress import rerun
from compress.cli import group
from compress.cli.run import recipe_from
from compress.cli.shared.method_options import given_flags
from compress.recipe import CalibrationSpec, Recipe, StageSpec
from compress.stages.finish import with_defaults


def manifest_of(recipe: Recipe) -> dict[str, Any]:
    """What a run of the recipe records of it."""
    steps = [
        {
            "source": {"model": recipe.model, "revision": recipe.revision},
            "recipe": with_defaults(recipe.step(number, recipe.model, "out")).identity(),
        }
        for number in range(len(recipe.stages))
    ]
    return {"history": steps[:-1], **steps[-1]}


def parsed(command: str) -> Recipe:
    words = shlex.split(command)
    assert words[:2] == ["compress", "run"]
    run = group.get_command(click.Context(group), "run")
    assert run is not None
    return recipe_from(given_flags(run.make_context("run", words[2:])))


ONE_STAGE = [
    Recipe(stages=(StageSpec(method="spqr", options={"bits": 4, "threshold": 0.5, "act_order": False}),)),
    Recipe(model="path/to/a model", stages=(StageSpec(method="rtn", options={"group_size": None}, tune="block"),)),
    Recipe(
        model="org/name",
        revision="abc",
        stages=(StageSpec(method="gptq", target_bits=3.25, embedding_bits="none", head_bits=4),),
        calibration=CalibrationSpec(source="c4:96,ultrachat:32", samples=64, seed=3),
        skip=("*.down_proj", "*.0.*"),
        engine="vllm",
        forward_dtype="float32",
    ),
    Recipe(model="atlas", stages=(StageSpec(method="ast", options={"rate": 1e-3}),)),
]


@pytest.mark.parametrize("recipe", ONE_STAGE, ids=lambda recipe: recipe.stages[0].method)
def test_the_command_asks_for_the_same_bytes(recipe: Recipe) -> None:
    again = rerun.of(manifest_of(recipe))
    assert again is not None and again.recipe is None
    found = parsed(again.command)
    assert with_defaults(found).identity() == with_defaults(recipe).identity()
    assert (found.model, found.revision, found.suite) == (recipe.model, recipe.revision, "none")


def test_options_at_their_default_are_left_out_but_bits_are_not() -> None:
    again = rerun.of(manifest_of(Recipe(stages=(StageSpec(method="spqr"),))), settings={})
    assert again is not None and again.command == "compress run atlas --method spqr --bits 3"


def test_text_that_the_run_chose_is_named() -> None:
    manifest = manifest_of(Recipe(model="org/name", stages=(StageSpec(method="gptq"),)))
    for chosen, named in (("self", "--calibration self"), ("bundled", None)):
        again = rerun.of({**manifest, "calibration": {"source": chosen}}, settings={})
        assert again is not None and ("--calibration" in again.command) == (named is not None)
        assert named is None or named in again.command


def test_several_stages_are_a_recipe_file(tmp_path: Path) -> None:
    recipe = Recipe(
        model="org/name",
        stages=(
            StageSpec(method="llm_pruner", options={"ratio": 0.25}),
            StageSpec(method="distill", options={"steps": 7, "rate": 1e-3}, calibration={"samples": 900}),
            StageSpec(method="spqr", options={"bits": 4}, head_bits=4),
        ),
        calibration=CalibrationSpec(samples=96),
        skip=("*.down_proj",),
    )
    again = rerun.of(manifest_of(recipe))
    assert again is not None and again.recipe is not None
    assert again.command == "compress run --recipe recipe.toml"
    file = tmp_path / rerun.RECIPE_FILE
    file.write_text(again.recipe, encoding="utf-8")
    found = Recipe.from_toml(file)
    assert found.model == "org/name" and len(found.stages) == 3
    for number in range(3):
        assert manifest_of(dataclasses.replace(found, stages=found.stages[: number + 1])) == manifest_of(
            dataclasses.replace(recipe, stages=recipe.stages[: number + 1])
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"limit": 100, "tier": None, "chat": "never"}, "--suite kick --limit 100 --chat never"),
        ({"limit": 400, "tier": "pr", "chat": "answers"}, "--suite kick --tier pr"),
    ],
)
def test_without_a_record_the_evaluation_tells_what_was_asked(settings: dict[str, Any], words: str) -> None:
    manifest = manifest_of(Recipe(stages=(StageSpec(method="rtn"),)))
    again = rerun.of(manifest, {"suite": {"name": "kick"}, "settings": settings})
    assert again is not None and again.command.endswith(f"--method rtn --bits 4 {words}")


def test_a_manifest_without_a_recipe_has_no_command() -> None:
    assert rerun.of({"source": {"model": "m"}, "recipe": {}}) is None
