"""The gate on models: what is asked, what is taken as it is, and whose fault scores are that are not finite."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from compress import evaluation
from compress.errors import EvaluationError
from compress.evaluation.gate.decide import gate
from compress.evaluation.result import EvalResult
from compress.models.source import ModelSource
from tests.support import tiny_suite as tiny
from tests.support.gate_results import family, result
from tests.support.models import save_tiny

ASKED: dict[str, Any] = {"suite": tiny.suite(), "batch_size": 4, "limit": 6}
FREE: dict[str, Any] = {"floor": {"said": 0, "chosen": 0, "recalled": 0}, "margin": 50}


def held(dense: Any, candidate: Any) -> Any:
    return gate(dense, candidate, tokenizer=tiny.tokenizer(), **ASKED, **FREE)


def test_two_models_are_asked_the_same_and_their_divergence_is_measured() -> None:
    report = held(tiny.model(), tiny.model())
    assert {found.n for found in report.families.values()} == {6}
    assert all(found.flips == found.answers_changed == 0 for found in report.families.values())
    assert report.divergence is not None
    assert report.divergence.mean == pytest.approx(0.0, abs=1e-6)


def test_a_candidate_with_nan_fails_and_the_layer_is_named() -> None:
    report = held(tiny.model(), tiny.poisoned("model.layers.1.mlp.down_proj"))
    assert report.verdict == "fail"
    assert "model.layers.1.mlp.down_proj" in report.reasons[0]
    assert "not finite" in report.reasons[0]


def test_a_dense_model_with_nan_is_unusable() -> None:
    with pytest.raises(EvaluationError, match="not finite"):
        held(tiny.poisoned("model.layers.1.mlp.down_proj"), tiny.model())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces `evaluate` by one that notes what it was asked and finds nothing lost."""
    made: list[dict[str, Any]] = []

    def evaluate(model: Any, **asked: Any) -> EvalResult:
        made.append({"model": model, **asked})
        baseline = asked.get("baseline")
        known = baseline if isinstance(baseline, EvalResult) else result(family()) if baseline else None
        return result(family(), name=str(model), baseline=known)

    monkeypatch.setattr(evaluation, "evaluate", evaluate, raising=False)
    return made


def test_models_are_asked_once_with_the_dense_one_as_baseline(calls: list[dict[str, Any]]) -> None:
    assert gate("dense", "packed", suite="kick-atlas", limit=7, data_dir=None, cache="kept").verdict == "pass"
    assert calls == [
        {"model": "packed", "baseline": "dense", "suite": "kick-atlas", "limit": 7, "cache": "kept", "progress": None}
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"limit": 400}, {"limit": 400}), ({"limit": 400, "tier": "pr"}, {"tier": "pr"}), ({"limit": None}, {}),
     ({"limit": None, "tasks": ["gsm8k"]}, {"tasks": ["gsm8k"]})],
)  # fmt: skip
def test_a_model_is_asked_what_the_evaluation_of_the_other_was(
    settings: dict[str, Any], expected: dict[str, Any], calls: list[dict[str, Any]]
) -> None:
    there = result(family(), settings=settings)
    gate(there, "packed")
    gate("dense", there)
    assert [call["model"] for call in calls] == ["packed", "dense"]
    for call in calls:
        assert {key: call[key] for key in ("limit", "tier", "tasks", "suite") if key in call} == {
            "suite": "kick-atlas", **expected
        }  # fmt: skip
    assert calls[0]["baseline"] is there


def test_a_dense_model_is_not_asked_again_where_it_was_the_baseline(
    calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path, "llama")
    dense = result(family())
    made = ModelSource.open(folder).fingerprint
    dense = dataclasses.replace(dense, model={**dense.model, "fingerprint": made})
    there = dataclasses.replace(result(family(), settings={"tier": "pr", "limit": 400}), baseline=dense)
    assert gate(folder, there, tier="pr", data_dir="somewhere").verdict == "pass" and not calls
    gate(folder, there, tier="release")
    other = dataclasses.replace(dense, model={**dense.model, "fingerprint": "another"})
    gate(folder, dataclasses.replace(there, baseline=other))
    assert [call["model"] for call in calls] == [folder, folder]


def test_what_is_said_goes_before_what_was_asked(calls: list[dict[str, Any]]) -> None:
    gate(result(family(), settings={"tier": "pr", "limit": 400}), "packed", limit=5)
    assert calls[0]["limit"] == 5
    assert "tier" not in calls[0]


def test_files_are_read(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    dense, packed = tmp_path / "dense.json", tmp_path / "packed.json"
    dense.write_text(result(family()).to_json(), encoding="utf-8")
    packed.write_text(dataclasses.replace(result(family(lost=60)), baseline=result(family())).to_json())
    assert gate(dense, str(packed), cache=tmp_path).verdict == "fail"
    assert gate(None, packed).verdict == "fail"
    assert not calls
    packed.write_text(packed.read_text().replace('"outcome": 0.0', '"outcome": NaN', 1))
    with pytest.raises(EvaluationError, match="NaN is not a number"):
        gate(dense, packed)
    with pytest.raises(EvaluationError, match="cannot be read"):
        gate(dense, tmp_path / "none.json")
