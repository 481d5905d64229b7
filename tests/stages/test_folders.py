"""Names of output folders: model, method and width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from compress.recipe import Recipe, StageSpec
from compress.stages.folders import folders, stage_name


@pytest.mark.parametrize(
    ("method", "settings", "name"),
    [
        ("spqr", {}, "spqr-3bit"),
        ("rtn", {"options": {"bits": 2}}, "rtn-2bit"),
        ("rtn", {"options": {"grid": "nvfp4"}}, "rtn-nvfp4"),
        ("gptq", {"target_bits": 2.5}, "gptq-2.5bit"),
        ("aqlm", {}, "aqlm-2bit"),
        ("aqlm", {"options": {"codebooks": 1, "code_bits": 12}, "tune": "block"}, "aqlm-1.5bit-tuned"),
        ("spqr", {"tune": "full"}, "spqr-3bit-tuned-full"),
        ("wanda", {}, "wanda-2of4"),
        ("llm_pruner", {"options": {"ratio": 0.35}}, "llm_pruner-0.35"),
        ("distill", {}, "distill"),
        ("none", {}, "none"),
    ],
)
def test_a_stage_is_named_by_method_width_and_tuning(method: str, settings: dict[str, Any], name: str) -> None:
    assert stage_name(StageSpec(method=method, **settings)) == name


def test_two_widths_of_one_method_do_not_collide() -> None:
    names = {folders(Recipe.from_options("atlas", "rtn", {"bits": bits}))[-1] for bits in range(2, 9)}
    assert len(names) == 7 and Path("runs/atlas-rtn-2bit") in names


def test_a_width_that_is_the_default_has_the_same_folder_as_one_that_is_given() -> None:
    given = Recipe.from_options("atlas", "spqr", {"bits": 3})
    assert folders(given) == folders(Recipe.from_options("atlas", "spqr", {})) == [Path("runs/atlas-spqr-3bit")]


def test_stages_before_the_last_lie_beside_it() -> None:
    stages = (StageSpec(method="llm_pruner"), StageSpec(method="distill"), StageSpec(method="rtn"))
    whole = folders(Recipe(model="path/to/some-model", stages=stages))
    last = Path("runs/some-model-llm_pruner-0.2-distill-rtn-4bit")
    beside = Path(f"{last}.stages")
    assert whole == [beside / "1-llm_pruner", beside / "2-distill", last]


def test_a_folder_that_is_given_is_taken(tmp_path: Path) -> None:
    assert folders(Recipe.from_options("atlas", "rtn", {"output": str(tmp_path)})) == [tmp_path]
