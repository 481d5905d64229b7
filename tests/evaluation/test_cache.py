"""The dense model is asked once; tiers say how much is asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.errors import EvaluationError
from compress.evaluation import cache, evaluate
from compress.evaluation.asking import tiers
from compress.evaluation.lm_eval_suite import harness
from compress.evaluation.result import EvalResult
from tests.support import tiny_suite as tiny


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    tiny.model(0).save_pretrained(tmp_path / "dense")
    tiny.tokenizer().save_pretrained(tmp_path / "dense")
    return tmp_path / "dense"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of which model, told apart by a weight."""
    models: list[str] = []
    run = harness.run

    def counted(model: Any, *args: Any, **options: Any) -> Any:
        dense = torch.equal(model.lm_head.weight, tiny.model(0).lm_head.weight)
        models.append("dense" if dense else "other")
        return run(model, *args, **options)

    monkeypatch.setattr(harness, "run", counted)
    return models


def measure(dense: Path | str, folder: Path | None, **options: Any) -> EvalResult:
    given = {"suite": tiny.suite(), "limit": 3, **options}
    return evaluate(tiny.model(1), tokenizer=tiny.tokenizer(), baseline=dense, cache=folder, **given)


def test_the_second_candidate_finds_the_dense_answers(dense: Path, tmp_path: Path, asked: list[str]) -> None:
    first = measure(dense, tmp_path / "kept")
    assert asked == ["dense", "other"]
    again = measure(dense, tmp_path / "kept")
    assert asked == ["dense", "other", "other"]
    assert again == first
    assert measure(dense, None) == first and asked.count("dense") == 2


@pytest.mark.parametrize(
    "change",
    [{"limit": 4}, {"batch_size": 2}, {"suite": replace(tiny.suite(), version=2)}],
    ids=lambda change: min(change),
)
def test_another_question_is_asked_anew(dense: Path, tmp_path: Path, asked: list[str], change: dict[str, Any]) -> None:
    measure(dense, tmp_path / "kept")
    measure(dense, tmp_path / "kept", **change)
    assert asked.count("dense") == 2


def test_another_library_is_asked_anew(
    dense: Path, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(dense, tmp_path / "kept")
    monkeypatch.setattr("compress.evaluation.session.__version__", "99")
    measure(dense, tmp_path / "kept")
    assert asked.count("dense") == 2


def test_a_weight_that_the_fingerprint_does_not_see_is_seen_by_the_text(
    dense: Path, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fingerprints of large tensors are made of samples."""
    from compress.models.source import ModelSource

    monkeypatch.setattr(ModelSource, "fingerprint", "the same")
    measure(dense, tmp_path / "kept")
    changed = tiny.model(0)
    with torch.no_grad():
        changed.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    changed.save_pretrained(dense)
    measure(dense, tmp_path / "kept")
    assert asked.count("dense") == 2


def test_a_spoilt_file_is_no_evaluation(dense: Path, tmp_path: Path, asked: list[str]) -> None:
    first = measure(dense, tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    file.write_text(file.read_text()[:-20])
    assert measure(dense, tmp_path / "kept") == first
    assert asked.count("dense") == 2
    file.write_text(json.dumps({**json.loads(file.read_text()), "key": {}}))
    measure(dense, tmp_path / "kept")
    assert asked.count("dense") == 3


def test_a_model_in_memory_is_not_kept(tmp_path: Path) -> None:
    evaluate(tiny.model(1), tokenizer=tiny.tokenizer(), suite=tiny.suite(), limit=2, baseline=tiny.model(0),
             cache=tmp_path / "kept")  # fmt: skip
    assert not (tmp_path / "kept").exists()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "ours"))
    assert cache.default_folder() == tmp_path / "ours" / "evaluations"
    monkeypatch.delenv("COMPRESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "all"))
    assert cache.default_folder() == tmp_path / "all" / "compress" / "evaluations"


def test_tiers() -> None:
    assert tiers.resolve("quick", None) == tiers.Tier(50, 16)
    assert tiers.resolve("pr", None) == tiers.Tier(400, 64)
    assert tiers.resolve("release", None) == tiers.resolve(None, None) == tiers.Tier(None, None)
    assert tiers.resolve(None, 7) == tiers.Tier(7, 7)
    with pytest.raises(EvaluationError, match="did you mean 'release'"):
        tiers.resolve("relase", None)
    with pytest.raises(EvaluationError, match="Give one"):
        tiers.resolve("pr", 7)


def test_a_tier_stands_in_the_result() -> None:
    found = evaluate(tiny.model(), tokenizer=tiny.tokenizer(), suite=tiny.suite(), tier="pr")
    assert (found.settings["tier"], found.settings["limit"]) == ("pr", 400)
