"""A family in which the dense model guesses tells nothing, and is set aside."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from compress.errors import EvaluationError
from compress.evaluation.above_chance import cannot_tell, lower_limit
from compress.evaluation.gate.decide import gate
from compress.evaluation.pairing import compare
from compress.report.gate import markdown, table
from compress.report.table.suite import remarks
from tests.support.gate_results import family, result, shares


def test_a_model_that_guesses_cannot_tell() -> None:
    assert "guessing scores 25.0 %" in (cannot_tell(family("multiple_choice", score=0.26)) or "")
    assert cannot_tell(family("multiple_choice", score=0.35)) is None
    assert cannot_tell(family(score=0.0)) is not None
    assert cannot_tell(family(score=0.01)) is None, "a guess of a fact is never right"
    assert cannot_tell(shares()) is None


def test_guessing_is_taken_for_knowledge_as_often_as_the_level_says() -> None:
    rng = np.random.default_rng(0)
    base = family("multiple_choice", n=200, score=0.25)
    wrong = 0
    for _ in range(400):
        drawn = rng.random(200) < 0.25
        items = [dataclasses.replace(item, outcome=float(right)) for item, right in zip(base.items, drawn, strict=True)]
        wrong += cannot_tell(dataclasses.replace(base, items=items)) is None
    assert 2 <= wrong <= 30  # 20 of 400 at a level of 5 %


def test_items_of_one_cluster_count_less() -> None:
    base = family("multiple_choice", score=0.32)
    items = [dataclasses.replace(item, cluster=f"subject {i // 40}") for i, item in enumerate(base.items)]
    assert cannot_tell(base) is None
    assert lower_limit(dataclasses.replace(base, items=items)) < 0.25 < lower_limit(base)


def test_the_gate_sets_such_a_family_aside_and_says_what_carried_the_verdict() -> None:
    dense = result(family(), family("multiple_choice", score=0.26))
    report = gate(dense, result(family(), family("multiple_choice", score=0.26, lost=100)))
    assert (report.verdict, report.carried_by) == ("pass", ["factoid"])
    aside = report.families["multiple_choice"]
    assert (aside.verdict, aside.margin) == ("cannot tell", None)
    assert report.to_dict()["carried_by"] == ["factoid"]
    for text in (markdown.render(report), "\n".join(table.basis(report))):
        assert "verdict carried by: factoid" in text
        assert "multiple choice cannot tell: the dense model is not above chance" in text
    assert gate(dense, result(family(lost=60), family("multiple_choice", score=0.26))).verdict == "fail"


def test_a_family_with_less_room_than_the_margin_is_set_aside_too() -> None:
    dense = result(family(), family("multiple_choice", score=0.29))
    report = gate(dense, dense)
    assert report.families["multiple_choice"].verdict == "cannot tell"
    assert "forgot everything would lose less than 5 points" in report.families["multiple_choice"].reason
    with pytest.raises(EvaluationError, match="below its floor of 35"):
        gate(dense, dense, floor={"multiple_choice": 35})


def test_a_run_says_it_below_its_table() -> None:
    dense = result(family("multiple_choice", score=0.25))
    packed = dataclasses.replace(dense, baseline=dense, comparison=compare(dense, dense))
    assert any(line.startswith("multiple choice cannot tell: the dense model is not above") for line in remarks(packed))
