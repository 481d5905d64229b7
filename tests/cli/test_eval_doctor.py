"""`compress eval` around a faked evaluation, and `compress doctor` on the machine it runs on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress import evaluation
from compress.cli import INTERRUPTED, invoke
from compress.evaluation.gate import decide
from compress.evaluation.result import EvalResult
from compress.kernels.native import loader
from tests.support.results import dense_and_packed


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces the evaluation by one that notes its arguments; with a baseline the result is paired with it."""
    calls: list[dict[str, Any]] = []

    def evaluate(model: str, **options: Any) -> EvalResult:
        calls.append({"model": model, **options})
        return dense_and_packed()[1 if options["baseline"] else 0]

    monkeypatch.setattr(evaluation, "evaluate", evaluate, raising=False)
    return calls


def test_a_model_alone_gets_its_scores(asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["eval", "atlas", "--limit", "5"]) == 0
    shown = capsys.readouterr().out
    assert "atlas on kick-atlas" in shown
    assert "lost/gained" not in shown
    assert (asked[0]["model"], asked[0]["limit"], asked[0]["baseline"]) == ("atlas", 5, None)


def test_a_baseline_gives_the_paired_table_and_the_file_holds_every_item(
    asked: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "eval.json"
    assert invoke(["eval", "runs/atlas-spqr", "--baseline", "atlas", "-o", str(file)]) == 0
    assert "lost/gained" in capsys.readouterr().out
    assert EvalResult.read(file) == dense_and_packed()[1]


def test_json(asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["eval", "x", "--baseline", "atlas", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["factoid"] == 0.6


@pytest.mark.parametrize("command", ["eval", "gate"])
@pytest.mark.parametrize("flags", [[], ["--no-cache"]], ids=["kept", "not kept"])
def test_an_interruption_says_that_replies_are_kept(
    command: str, flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate", stopped, raising=False)
    monkeypatch.setattr(decide, "gate", stopped)
    assert invoke([command, "atlas", *(["other"] if command == "gate" else []), *flags]) == INTERRUPTED
    assert ("it goes on from the replies" in capsys.readouterr().err) == (not flags)


def test_every_option_reaches_the_evaluation(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", "kept")
    monkeypatch.setenv("COMPRESS_JUDGE_KEY", "secret")
    options = ["--suite", "kick", "--data-dir", "data", "--tier", "pr", "--tasks", "hellaswag, gsm8k"]
    options += ["--max-memory", "2.5GB"]
    judge = ["--judge", "http://localhost:8000/v1", "--judge-model", "judge-1"]
    assert invoke(["eval", "x", "--baseline", "atlas", *options, *judge]) == 0
    call = asked[0]
    assert call["max_memory"] == 2_500_000_000
    assert [call[name] for name in ("suite", "data_dir", "tier", "limit")] == ["kick", "data", "pr", None]
    assert call["tasks"] == ["hellaswag", "gsm8k"]
    assert call["cache"] == Path("kept/evaluations")
    assert (call["judge"].model, call["judge"].key) == ("judge-1", "secret")
    assert invoke(["eval", "--no-cache"]) == 0
    assert [asked[1][name] for name in ("model", "cache", "judge", "tasks")] == ["atlas", None, None, []]


def test_a_judge_needs_a_name(asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["eval", "x", "--baseline", "atlas", "--judge", "http://localhost:8000/v1"]) == 2
    assert "belong together" in capsys.readouterr().err
    assert not asked


def test_doctor_shows_versions_and_every_kernel_with_its_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_KERNEL", "reference")
    assert invoke(["doctor"]) == 0
    shown = capsys.readouterr().out
    for word in ("transformers", "lm-eval", "memory", "offline", "int_group.v1", "spqr.v1"):
        assert word in shown
    assert any(line.split()[:2] == ["COMPRESS_KERNEL", "reference"] for line in shown.splitlines())
    reference = [line.split()[2] for line in shown.splitlines() if line.split()[:1] == ["reference"]]
    assert reference and set(reference) == {"yes"}


def test_doctor_as_json_is_all_of_stdout(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_JUDGE_KEY", "sk-do-not-tell")
    monkeypatch.delenv("COMPRESS_ISA", raising=False)
    assert invoke(["doctor", "--json"]) == 0
    shown = capsys.readouterr().out
    known = json.loads(shown)
    assert known["versions"]["torch"] and known["machine"]["cores"] >= 1 and known["machine"]["memory_bytes"] > 0
    assert known["settings"]["COMPRESS_JUDGE_KEY"] == "set" and "sk-do-not-tell" not in shown
    assert known["settings"]["COMPRESS_ISA"] is None
    reference = [entry for entry in known["kernels"] if entry["kernel"] == "reference"]
    assert reference and all(entry["reason"] is None for entry in reference)


def test_doctor_says_why_native_kernels_are_missing_and_keeps_a_key_to_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_JUDGE_KEY", "sk-do-not-tell")
    monkeypatch.setenv("COMPRESS_CACHE", "/somewhere")
    monkeypatch.delenv("COMPRESS_ISA", raising=False)
    monkeypatch.setattr(loader, "unavailable", lambda: "no compiler")
    assert invoke(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "sk-do-not-tell" not in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["COMPRESS_JUDGE_KEY", "set"] in rows and ["COMPRESS_CACHE", "/somewhere"] in rows
    assert ["COMPRESS_ISA", "not", "set"] in rows
    assert ["native", "kernels", "missing:", "no", "compiler"] in rows
