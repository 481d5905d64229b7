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
        ("max_memory = -1\n[[stage]]\nmethod='rtn'", "more than zero bytes"),
        ("[calibration]\nsamples = 'many'", "samples='many'. Allowed: an integer"),
        (f"[calibration]\nseed = {2**70}", "calibration seed=.*Allowed: at most"),
        ("calibration = 5", "must be a table, not 5"),
        ("calibration = 'c4'\n[[stage]]\nmethod='rtn'", r'Write source = "c4" below a line \[calibration\]'),
        ("samples = 4\n[[stage]]\nmethod='rtn'", r"samples stands at the top.*below a line \[calibration\]"),
        ("bits = 4\n[[stage]]\nmethod='rtn'", r"key 'bits'.*Options of a method belong below \[\[stage\]\]"),
        ("[calibration]\nsource = 5\n[[stage]]\nmethod='rtn'", "source=5. Allowed: text"),
        ("stage = 3", r"stage=3. Allowed: tables that begin with \[\[stage\]\]"),
        ("[stage]\nmethod = 'rtn'", r"hold method.*Write \[\[stage\]\] in place of \[stage\]"),
        ("stage = [3]", "lacks its method"),
        ("[[stage]]\nmethod = 3", "method=3. Allowed: text"),
        ("[[stage]]\nmethod = 'rtn'\ntune = ['block']", "tune=.*Allowed: text"),
        ("[[stage]]\nmethod = 'rtn'\ntarget_bits = 'few'", "target_bits='few'. Allowed: a number"),
        ("[[stage]]\nmethod = 'rtn'\ntarget_bits = nan", "more than 0, at most 16"),
        ("[[stage]]\nmethod = 'rtn'\ncalibration = 3", "must be a table, not 3"),
        ("skip = [1]\n[[stage]]\nmethod='rtn'", "skip=.*Allowed: a list of text"),
        ("model = 5\n[[stage]]\nmethod='rtn'", "model=5. Allowed: text"),
        ("model = 'a\\u0000'\n[[stage]]\nmethod='rtn'".replace("'a", '"a').replace("0'", '0"'), "null characters"),
        ("limit = 'all'\n[[stage]]\nmethod='rtn'", "limit='all'. Allowed: an integer"),
        ("limit = true\n[[stage]]\nmethod='rtn'", "limit=True. Allowed: an integer"),
        ("workers = 1.5\n[[stage]]\nmethod='rtn'", "workers=1.5. Allowed: an integer"),
        ("min_coverage = 'high'\n[[stage]]\nmethod='rtn'", "min_coverage='high'. Allowed: a number"),
        ("x = " + "[" * 20_000, "not valid TOML"),
        ("x = " + "9" * 5000, "not valid TOML"),
    ],
    ids=lambda text: text[:40],
)
def test_mistakes(tmp_path, text, message):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        Recipe.from_toml(path)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(RecipeError, match="there is no recipe file"):
        Recipe.from_toml(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.from_toml(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"model = 'caf\xe9'")
    with pytest.raises(RecipeError, match="not valid TOML"):
        Recipe.from_toml(tmp_path / "latin.toml")


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "recipe.toml").write_text(TOML, encoding="utf-8-sig")
    assert Recipe.from_toml(tmp_path / "recipe.toml").calibration.samples == 8


def test_one_glob_need_not_be_a_list():
    assert Recipe.from_dict({"skip": "*.o_proj", "stage": [{"method": "rtn"}]}).skip == ("*.o_proj",)


def test_every_option_of_a_python_call_finds_its_place(tmp_path):
    options = {"skip": "*.o_proj", "suite": None, "max_memory": "1GB", "data_dir": tmp_path, "revision": "main"}
    options |= {"calibration": tmp_path / "text.txt", "samples": 4, "tune": "block", "bits": 3}
    assert Recipe.from_options("m", "rtn", options) == Recipe(
        model="m",
        revision="main",
        stages=(StageSpec(method="rtn", options={"bits": 3}, tune="block"),),
        calibration=CalibrationSpec(source=str(tmp_path / "text.txt"), samples=4),
        skip=("*.o_proj",),
        suite="none",
        data_dir=str(tmp_path),
        max_memory=10**9,
    )


@pytest.mark.parametrize(
    "text,size", [("2.5GB", 2_500_000_000), ("800MiB", 800 * 2**20), ("1e9", 10**9), ("3 k", 3000)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


def test_a_flat_recipe_is_answered_with_its_right_shape(tmp_path):
    """The lines that the error shows are a recipe file, and say what the flat one meant to say."""
    flat = tmp_path / "flat.toml"
    flat.write_text('model = "m"\nmethod = "spqr"\nbits = 3\nact_order = false\nsamples = 8\nskip = ["a", "b"]\n')
    with pytest.raises(RecipeError, match="method stands at the top of the recipe") as error:
        Recipe.from_toml(flat)
    said = str(error.value)
    flat.write_text(said[said.index("\n") :])
    assert Recipe.from_toml(flat) == Recipe(
        model="m",
        skip=("a", "b"),
        calibration=CalibrationSpec(samples=8),
        stages=(StageSpec(method="spqr", options={"bits": 3, "act_order": False}),),
    )
