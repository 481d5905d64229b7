"""Trainings as stages of a recipe: what they leave loads, and is what the next stage begins with."""

import pytest
import torch

import compress
from compress.format import layouts
from compress.format.layouts import sparse_nm
from compress.format.reader import open_checkpoint
from compress.recipe import CalibrationSpec, Recipe, StageSpec
from compress.runtime import load
from compress.stages.folders import folders
from tests.support.entries import linears
from tests.support.models import save_tiny, save_tokens, tiny_tokens

TRAIN = dict(steps=6, batch=2, micro_batch=2, rate=1e-3, held_out=0.2)
SVD = ("svd_llm", dict(ratio=0.3, multiple=4))
RTN = ("rtn", dict(bits=8, group_size=4))
PACKED = ("distill", TRAIN | dict(train="packed", rate=0.01))


@pytest.fixture
def recipe(tmp_path, proof_in_this_process):
    tokens = save_tokens(tmp_path)
    save_tiny(tmp_path / "model", "llama")

    def make(*stages, output="out"):
        return Recipe(
            model=str(tmp_path / "model"), output=str(tmp_path / output), suite="none",
            calibration=CalibrationSpec(source=str(tokens), samples=10, seq_len=24),
            stages=tuple(StageSpec(method=name, options=options) for name, options in stages),
        )  # fmt: skip

    return make


def test_low_rank_then_distilled_then_quantised(recipe):
    whole = recipe(SVD, PACKED, RTN)
    compress.run(whole)
    first, second, last = folders(whole)
    for name in linears(open_checkpoint(last).manifest):
        one, other = (open_checkpoint(folder).packed(name) for folder in (first, second))
        assert one.scheme == other.scheme and not torch.equal(one.planes["weight"], other.planes["weight"])
        assert {part.scheme.layout for part in layouts.parts(open_checkpoint(last).packed(name)).values()} == {
            "int_group.v1"
        }
    training = open_checkpoint(second).manifest["training"]
    assert training["after"] < training["before"] and training["steps"] == 6
    assert load(last)(tiny_tokens(1, 10)).logits.isfinite().all()


@pytest.mark.parametrize("options", [dict(slorb=8), dict(learned=True)])
def test_sparse_then_quantised_keeps_its_pattern(recipe, options):
    whole = recipe(("ast", TRAIN | options), RTN)
    compress.run(whole)
    first, last = folders(whole)
    for name in linears(open_checkpoint(last).manifest):
        masks = [sparse_nm.mask(open_checkpoint(folder).packed(name)) for folder in (first, last)]
        assert torch.equal(*masks) and bool((masks[0].view(masks[0].shape[0], -1, 4).sum(-1) == 2).all())
    assert load(last)(tiny_tokens(1, 10)).logits.isfinite().all()


def test_the_same_recipe_gives_the_same_bytes(recipe):
    manifests = []
    for output in ("one", "two"):
        manifests.append(compress.run(recipe(("ast", TRAIN), output=output)).manifest)
    one, two = manifests
    assert one["shards"] == two["shards"]
    assert {key for key in one if one[key] != two.get(key)} <= {"recipe", "history"}
