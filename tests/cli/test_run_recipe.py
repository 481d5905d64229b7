"""`compress run`: what flags, a recipe file and their mixture come to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compress.cli import run
from compress.cli.shared.method_options import given_flags, method_options
from compress.errors import RecipeError
from compress.methods import registry
from compress.recipe import CalibrationSpec, Recipe, StageSpec

EXAMPLES = sorted((Path(__file__).parents[2] / "examples/recipes").glob("*.toml"))
RECIPE = """
model = "some/folder"
limit = 7
skip = ["*.down_proj"]
[calibration]
samples = 16
seed = 3
[[stage]]
method = "spqr"
bits = 4
threshold = 0.5
"""


def recipe_of(*args: str) -> Recipe:
    with run.command.make_context("run", list(args)) as ctx:
        return run.recipe_from(given_flags(ctx))


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return str(path)


def test_no_flag_is_spqr_on_the_bundled_model() -> None:
    assert recipe_of() == Recipe(stages=(StageSpec(method="spqr"),))


def test_flags_reach_the_recipe() -> None:
    recipe = recipe_of(
        "--model", "m", "--method", "rtn", "--bits", "3", "--group-size", "none", "--symmetric", "-o", "out",
        "--samples", "4", "--seq-len", "32", "--seed", "9", "--calibration", "text.txt", "--skip", "*.o_proj",
        "--skip", "*.0.*", "--limit", "5", "--max-memory", "2.5GB", "--min-coverage", "0.5", "--suite", "other",
    )  # fmt: skip
    assert recipe == Recipe(
        model="m",
        output="out",
        stages=(StageSpec(method="rtn", options={"bits": 3, "group_size": None, "symmetric": True}),),
        calibration=CalibrationSpec(source="text.txt", samples=4, seq_len=32, seed=9),
        skip=("*.o_proj", "*.0.*"),
        suite="other",
        limit=5,
        max_memory=2_500_000_000,
        min_coverage=0.5,
    )


def test_no_eval_is_the_suite_none() -> None:
    assert recipe_of("--no-eval").suite == "none"


def test_the_recipe_file_alone(file: str) -> None:
    assert recipe_of("--recipe", file) == Recipe.from_toml(file)


def test_flags_override_the_keys_of_the_file_one_by_one(file: str) -> None:
    recipe = recipe_of("--recipe", file, "--limit", "9", "--seed", "0", "--bits", "3")
    assert recipe.limit == 9
    assert recipe.calibration == CalibrationSpec(samples=16, seed=0)
    assert recipe.skip == ("*.down_proj",)
    assert recipe.stages == (StageSpec(method="spqr", options={"bits": 3, "threshold": 0.5}),)


def test_another_method_replaces_the_stages_of_the_file(file: str) -> None:
    recipe = recipe_of("--recipe", file, "--method", "rtn", "--bits", "5")
    assert recipe.stages == (StageSpec(method="rtn", options={"bits": 5}),)
    assert recipe.model == "some/folder"


def test_the_same_method_keeps_the_options_of_the_file(file: str) -> None:
    recipe = recipe_of("--recipe", file, "--method", "spqr", "--bits", "2")
    assert recipe.stages == (StageSpec(method="spqr", options={"bits": 2, "threshold": 0.5}),)


def test_method_options_beside_two_stages_are_ambiguous(tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text('[[stage]]\nmethod = "rtn"\n[[stage]]\nmethod = "spqr"\n', encoding="utf-8")
    with pytest.raises(RecipeError, match="beside a recipe of 2 stages"):
        recipe_of("--recipe", str(path), "--bits", "3")


def test_a_wrong_option_in_the_file_is_found_before_anything_starts(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[[stage]]\nmethod = "rtn"\nbitz = 3\n', encoding="utf-8")
    with pytest.raises(RecipeError, match=re.escape("did you mean 'bits'?")):
        recipe_of("--recipe", str(path))


def test_a_recipe_decides_which_options_there_are(tmp_path: Path) -> None:
    path = tmp_path / "rtn.toml"
    path.write_text('[[stage]]\nmethod = "rtn"\n', encoding="utf-8")
    assert recipe_of("--recipe", str(path), "--symmetric").stages[0].options == {"symmetric": True}


@pytest.mark.parametrize("method", registry.names())
def test_every_field_of_a_config_is_a_documented_option(method: str) -> None:
    options = {option.name: option for option in method_options(method)}
    for field in registry.describe(method).options:
        option = options[field.name]
        assert option.help, f"{method}.{field.name} has no help"
        assert option.default == field.default


@pytest.mark.parametrize("method", registry.names())
def test_no_option_of_a_method_hides_one_of_run(method: str) -> None:
    own = {flag for param in run.command.params for flag in param.opts}
    assert not own & {flag for option in method_options(method) for flag in option.opts}


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "examples/recipes").glob("*.toml")), ids=lambda p: p.stem
)
def test_the_example_recipes_are_valid(path: Path) -> None:
    recipe = recipe_of("--recipe", str(path))
    for stage in recipe.stages:
        registry.configure(stage.method, stage.options)
