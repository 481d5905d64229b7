"""Recipes from TOML."""

import pytest

from compress.errors import RecipeError
from compress.recipe import CalibrationSpec, Recipe, StageSpec, digest, parse_size

TOML = """
model = "some/folder"
skip = ["*.down_proj"]
max_memory = "2.5GB"
[calibration]
samples = 8
[[stage]]
method = "spqr"
bits = 4
"""


def test_toml_and_python_give_the_same(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(TOML)
    recipe = Recipe.from_toml(path)
    assert recipe == Recipe(
        model="some/folder",
        skip=("*.down_proj",),
        max_memory=2_500_000_000,
        calibration=CalibrationSpec(samples=8),
        stages=(StageSpec(method="spqr", options={"bits": 4}),),
    )


def test_identity_leaves_out_what_does_not_change_bytes():
    stages = (StageSpec(method="rtn"),)
    one, other = Recipe(stages=stages, output="a", max_memory=10**9), Recipe(stages=stages, output="b", limit=3)
    assert digest(one.identity()) == digest(other.identity())
    assert digest(one.identity()) != digest(Recipe(stages=stages, skip=("x",)).identity())


@pytest.mark.parametrize(
    "text,message",
    [
        ("modle = 'x'", "unknown recipe key 'modle'; did you mean 'model'"),
        ("[calibration]\nsample = 3", "did you mean 'samples'"),
        ("[calibration]\nsamples = 0", "samples=0. Allowed: an integer of at least 1"),
        ("[[stage]]\nbits = 3", "lacks its method"),
        ("model = 'x'", "no stage"),
        ("model = ", "not valid TOML"),
        ("min_coverage = 2\n[[stage]]\nmethod='rtn'", "a share from 0 to 1"),
        ("max_memory = '2.5 elephants'\n[[stage]]\nmethod='rtn'", "elephants"),
    ],
)
def test_mistakes(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        Recipe.from_toml(path)


def test_missing_file(tmp_path):
    with pytest.raises(RecipeError, match="no recipe file"):
        Recipe.from_toml(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "text,size", [("2.5GB", 2_500_000_000), ("800MiB", 800 * 2**20), ("1e9", 10**9), ("3 k", 3000)]
)
def test_sizes(text, size):
    assert parse_size(text) == size
