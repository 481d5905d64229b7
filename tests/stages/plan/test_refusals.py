"""What is refused before a model is opened."""

import pytest

from compress import pipeline
from compress.errors import CalibrationError, CompressError, RecipeError
from compress.recipe import CalibrationSpec, Recipe, StageSpec

ONE = CalibrationSpec(samples=1)


@pytest.mark.parametrize(
    "stages",
    [
        (StageSpec(method="gptq", tune="block"),),
        (StageSpec(method="distill"),),
        (StageSpec(method="rtn"), StageSpec(method="distill", calibration={"samples": 1})),
    ],
)
def test_training_on_one_sequence(stages):
    calibration = ONE if len(stages) == 1 else CalibrationSpec()
    with pytest.raises(CalibrationError, match=r"at least 2 sequences \(1 is held out\); got 1"):
        pipeline.plan(Recipe(model="no/such/model", stages=stages, calibration=calibration))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (StageSpec(method="distill", tune="block"), "tune with the method distill, which packs no weights"),
        (StageSpec(method="llm_pruner", target_bits=3.0), "target_bits with the method llm_pruner"),
        (StageSpec(method="rtn", options={"bitz": 3}), "did you mean 'bits'"),
        (StageSpec(method="rtm"), "did you mean 'rtn'"),
    ],
)
def test_options_that_a_method_does_not_have(stage, message):
    with pytest.raises(RecipeError, match=message):
        pipeline.plan(Recipe(model="no/such/model", stages=(stage,)))


def test_one_sequence_is_enough_where_nothing_is_trained():
    with pytest.raises(CompressError, match="no/such/model"):
        pipeline.plan(Recipe(model="no/such/model", stages=(StageSpec(method="gptq"),), calibration=ONE))
