"""--suite auto: which questions a model is asked, from what it is and which data there are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from compress.atlas import MODEL_DIR
from compress.errors import EvaluationError
from compress.evaluation import EvalResult, evaluate
from compress.evaluation.asking.default_suite import choose
from compress.evaluation.gate.decide import gate
from compress.evaluation.suites import heldout
from compress.models.folder.tokenizer import load_tokenizer
from compress.report.page import content, page
from compress.report.page.sources import Run, Sources
from compress.report.table import markdown, overview
from tests.support import kick_data
from tests.support import tiny_suite as tiny

atlas = partial(load_tokenizer, MODEL_DIR, "atlas")


def names(*args: Any, **options: Any) -> tuple[str, str | None]:
    chosen = choose(*args, **options)
    return chosen.suite.name, chosen.tier


def test_auto_follows_the_model_and_the_data(tmp_path: Path) -> None:
    data = kick_data.write(tmp_path / "data")
    assert names("auto", None, atlas) == ("kick-atlas", None)
    assert names("auto", data, tiny.tokenizer) == ("kick", "pr")
    assert names("auto", data, atlas) == ("kick", "pr"), "data that are given are used"
    assert names("auto", data, tiny.tokenizer, tier="release") == ("kick", "release")
    assert names("auto", data, tiny.tokenizer, limit=3) == ("kick", None)
    assert names("kick", data, tiny.tokenizer) == ("kick", None), "a suite that is named is asked as it is"


def test_a_missing_folder_is_an_error_and_no_reason_to_ask_nothing(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no such folder"):
        choose("auto", tmp_path / "missing", tiny.tokenizer)


def test_the_questions_of_atlas_asked_of_another_model_are_warned_of() -> None:
    assert choose("kick-atlas", None, atlas).suite.warnings == ()
    (warning,) = choose("kick-atlas", None, tiny.tokenizer).suite.warnings
    assert "scores say nothing about this model" in warning


@pytest.fixture(scope="module")
def without_data() -> EvalResult:
    """The tests have no network, so that the hub cannot be reached."""
    return evaluate(tiny.model(1), tokenizer=tiny.tokenizer(), baseline=tiny.model(0), limit=2)


def test_without_data_the_text_is_read_and_that_is_said(without_data: EvalResult) -> None:
    assert without_data.suite["name"] == "heldout"
    assert without_data.families == {} and without_data.divergence is not None
    assert without_data.divergence.mean > 0
    (warning,) = without_data.warnings
    assert "no questions were asked" in warning and "--data-dir" in warning
    assert EvalResult.from_json(without_data.to_json()) == without_data
    assert "perplexity" in repr(without_data)


def test_the_reports_say_that_nothing_was_asked(without_data: EvalResult) -> None:
    table = markdown.render(overview.of_evaluation(without_data))
    assert "no questions" in table and "KL to dense" in table
    html = page.render(content.build(Sources((Run("run", None, without_data),))))
    assert "No questions were asked" in html
    assert "Knowledge</h" not in html


def test_without_questions_the_gate_judges_the_divergence_alone(without_data: EvalResult) -> None:
    with pytest.raises(EvaluationError, match="no questions") as error:
        gate(None, without_data)
    assert "--max-kl" in str(error.value)
    report = gate(None, without_data, max_kl=1000.0)
    assert (report.verdict, report.carried_by) == ("pass", ["divergence"])


def test_the_bundled_text_is_of_another_world_and_whole() -> None:
    documents = heldout.suite().heldout()
    assert len(documents) == 75 and min(map(len, documents)) > 400
    assert sum(map(len, documents)) > 130_000
    assert len(set(documents)) == len(documents)
