"""Recipes of several stages: each folder is a checkpoint, the next is made of it, all of it loads and goes on."""

import json
import shutil

import pytest
import torch

import compress
from compress.errors import CompressError, RecipeError
from compress.format import layouts
from compress.format.reader import open_checkpoint
from compress.models.source import ModelSource
from compress.recipe import CalibrationSpec, Recipe, StageSpec
from compress.runtime import load
from compress.stages.folders import folders
from tests.support.entries import linears
from tests.support.models import save_tiny, save_tokens, tiny_tokens

pytestmark = pytest.mark.usefixtures("proof_in_this_process")


@pytest.fixture
def recipe(tmp_path):
    tokens = save_tokens(tmp_path)
    save_tiny(tmp_path / "model", "llama")

    def make(*stages, **changes):
        given = {
            "model": str(tmp_path / "model"),
            "output": str(tmp_path / "out"),
            "suite": "none",
            "calibration": CalibrationSpec(source=str(tokens), samples=6, seq_len=24),
            "stages": tuple(StageSpec(method=name, options=options) for name, options in stages),
        }
        return Recipe(**(given | changes))

    return make


SVD = ("svd_llm", {"ratio": 0.3, "multiple": 4})
RTN = ("rtn", {"bits": 8, "group_size": 4})


def test_low_rank_then_quantised(recipe):
    both = recipe(SVD, RTN)
    result = compress.run(both)
    first, last = folders(both)
    assert first.name == "1-svd_llm" and first.parent.name == "out.stages" and last == result.checkpoint
    made = {entry["scheme"]["layout"] for entry in linears(result.manifest).values()}
    assert made == {"low_rank.v1"}
    for name in linears(result.manifest):
        parts = layouts.parts(open_checkpoint(last).packed(name))
        assert {part.scheme.layout for part in parts.values()} == {"int_group.v1"}
        before = layouts.unpack(open_checkpoint(first).packed(name))
        after = layouts.unpack(open_checkpoint(last).packed(name))
        assert 0 < float((after - before).norm() / before.norm()) < 0.03
    assert result.manifest["bits_per_weight"] < open_checkpoint(first).manifest["bits_per_weight"]
    tokens = tiny_tokens(1, 10)
    with torch.inference_mode():
        assert load(first)(tokens).logits.isfinite().all() and load(last)(tokens).logits.isfinite().all()


def test_the_history_says_what_was_done_to_which_model(recipe, tmp_path):
    result = compress.run(recipe(SVD, RTN))
    (before,) = result.manifest["history"]
    assert before["recipe"]["stages"][0]["method"] == "svd_llm" and before["source"]["model"] == "model"
    assert before["source"]["size_bytes"] == ModelSource.open(tmp_path / "model").size_bytes
    assert result.manifest["recipe"]["stages"][0]["method"] == "rtn"
    assert "svd_llm ratio=0.3 multiple=4 → rtn bits=8 group_size=4" in result.summary()
    json.dumps(result.manifest)


def test_a_finished_stage_is_not_made_again(recipe, monkeypatch):
    from compress.methods import svd_llm

    compress.run(recipe(SVD))  # as the output of a run of its own
    both = recipe(SVD, RTN, output=recipe(SVD).output + "-both")
    compress.run(both)
    monkeypatch.setattr(svd_llm, "solve", lambda *_: pytest.fail("the first stage was made again"))
    other = recipe(SVD, ("rtn", {"bits": 4, "group_size": 4}), output=both.output)
    with pytest.raises(CompressError, match="another recipe"):
        compress.run(other)
    shutil.rmtree(folders(both)[-1])
    again = compress.run(both)
    assert again.manifest["recipe"]["stages"][0]["method"] == "rtn"


def test_skipped_parts_stay_parts(recipe):
    result = compress.run(recipe(SVD, RTN, skip=("*.down_proj",), min_coverage=0.0))
    kept = [entry for name, entry in result.manifest["tensors"].items() if name.endswith("down_proj")]
    # left dense by the first stage already
    assert not kept
    first, _ = folders(recipe(SVD, RTN))
    again = recipe(RTN, model=str(first), output=str(first) + "-again", skip=("*.q_proj",), min_coverage=0.0)
    found = linears(compress.run(again).manifest)
    parts = {name: entry["scheme"]["options"] for name, entry in found.items() if not name.endswith("down_proj")}
    schemes = {name: options["left"]["layout"] for name, options in parts.items()}
    assert {layout for name, layout in schemes.items() if name.endswith("q_proj")} == {"dense.v1"}
    assert {layout for name, layout in schemes.items() if not name.endswith("q_proj")} == {"int_group.v1"}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([RTN, RTN], "quantised already"),
        ([SVD, SVD], "it makes parts itself"),
        ([SVD, ("rtn", {"bits": 8, "group_size": 48})], "group"),
        ([("wanda", {}), ("gptq", {})], "needs the statistics of inputs"),
    ],
)
def test_what_cannot_follow_is_refused_before_the_work(recipe, stages, message):
    with pytest.raises(CompressError, match=message):
        compress.run(recipe(*stages))


def test_keys_of_the_calibration_hold_for_their_stage(recipe, tmp_path):
    both = recipe(SVD, RTN)
    stages = (StageSpec(method="svd_llm", options=SVD[1], calibration={"samples": 3}), both.stages[1])
    assert Recipe(stages=stages).step(0, "m", "o").calibration.samples == 3
    assert Recipe(stages=stages).step(1, "m", "o").calibration.samples == 128
    with pytest.raises(RecipeError, match="sample"):
        StageSpec(method="rtn", calibration={"sample": 3})
    path = tmp_path / "recipe.toml"
    path.write_text('[[stage]]\nmethod = "rtn"\n[stage.calibration]\nsamples = 7\n[[stage]]\nmethod = "rtn"\n')
    assert [dict(stage.calibration) for stage in Recipe.from_toml(path).stages] == [{"samples": 7}, {}]


def test_target_bits_of_parts_are_refused(recipe):
    made = recipe(SVD, RTN)
    stages = (made.stages[0], StageSpec(method="rtn", target_bits=5.0))
    with pytest.raises(RecipeError, match="not supported for composite"):
        compress.run(recipe(stages=stages))
