"""`compress gate`: exit codes, files, and what compress.toml and flags make of each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress import evaluation
from compress.cli import invoke
from compress.evaluation.result import EvalResult
from compress.format import manifest
from tests.support.gate_results import family, result
from tests.support.imported import HEAVY, loaded_by

NAMES = ["gate.json", "gate.md", "junit.xml"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with evaluations of a dense model and of some candidates."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    dense = result(family())
    made = {
        "dense": dense,
        "same": result(family(), name="same", baseline=dense),
        "worse": result(family(lost=60), name="worse"),
        "open": result(family(lost=20, gained=4), name="open"),
        "other": result(family(n=399), name="other"),
        "silent": result(family(empty=320), name="silent"),
    }
    for name, found in made.items():
        (tmp_path / f"{name}.json").write_text(found.to_json(), encoding="utf-8")
    return tmp_path


def toml(folder: Path, **keys: Any) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    (folder / "compress.toml").write_text("\n".join(["[gate]", *lines]), encoding="utf-8")


@pytest.mark.parametrize(
    ("candidate", "code"), [("same", 0), ("worse", 1), ("silent", 1), ("other", 2), ("missing", 2), ("open", 3)]
)
def test_the_exit_code_is_the_verdict_and_the_files_are_there_whatever_it_is(
    candidate: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["gate", "dense.json", f"{candidate}.json", "-o", "gate"]) == code
    assert sorted(path.name for path in (folder / "gate").iterdir()) == NAMES
    verdict = json.loads((folder / "gate/gate.json").read_text(encoding="utf-8"))["verdict"]
    assert verdict == {0: "pass", 1: "fail", 2: "unusable", 3: "inconclusive"}[code]
    shown = capsys.readouterr()
    assert ("Error:" in shown.err) == (code == 2)
    assert verdict.upper() in shown.out or code == 2
    assert verdict.upper() in (folder / "gate/gate.md").read_text(encoding="utf-8")


def test_an_open_verdict_can_be_let_pass_and_a_fail_cannot() -> None:
    assert invoke(["gate", "dense.json", "open.json", "--inconclusive-ok"]) == 0
    assert invoke(["gate", "dense.json", "worse.json", "--inconclusive-ok"]) == 1


def test_nothing_is_written_that_nobody_asked_for(folder: Path) -> None:
    before = sorted(folder.iterdir())
    assert invoke(["gate", "dense.json", "same.json"]) == 0
    assert sorted(folder.iterdir()) == before


def test_one_argument_is_an_evaluation_with_its_baseline(folder: Path) -> None:
    assert invoke(["gate", "same.json"]) == 0
    assert invoke(["gate", "worse.json"]) == 2
    toml(folder, dense="nothing.json", suite="kick", tier="pr", device="cpu", max_memory="2GB")
    assert invoke(["gate", "same.json"]) == 0
    assert invoke(["gate", "dense.json", "same.json"]) == 0


def test_a_flag_that_could_not_hold_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for models in (["same.json"], ["dense.json", "same.json"]):
        assert invoke(["gate", *models, "--suite", "kick"]) == 2
        assert "suite given, but both evaluations exist already" in capsys.readouterr().err


def test_one_argument_may_be_the_folder_of_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["gate", "run"]) == 2
    assert "there is no folder or file run." in capsys.readouterr().err
    (folder / "run").mkdir()
    assert invoke(["gate", "run"]) == 2
    assert capsys.readouterr().err.endswith("Give DENSE and CANDIDATE.\n")
    (folder / "same.json").rename(folder / "run/eval.json")
    toml(folder, dense="nothing.json", suite="kick", device="cpu")  # says nothing of an evaluation that is there
    assert invoke(["gate", "run"]) == 0
    toml(folder, candidate="run")
    assert invoke(["gate"]) == 0


def test_the_evaluation_in_a_folder_must_be_of_its_weights(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "run"
    run.mkdir()
    (run / "compress.json").write_text("{}", encoding="utf-8")
    assert invoke(["gate", "run"]) == 2
    assert "has no eval.json, as after a run with --no-eval" in (said := capsys.readouterr().err)
    assert said.endswith("Give the dense model as well: compress gate DENSE run.\n")
    evaluated = json.loads((folder / "same.json").read_text(encoding="utf-8"))
    for fingerprint, code in (("of another file", 2), (manifest.fingerprint(run), 0)):
        evaluated["model"]["fingerprint"] = fingerprint
        (run / "eval.json").write_text(json.dumps(evaluated), encoding="utf-8")
        assert invoke(["gate", "run"]) == code
    assert "run/eval.json is of other weights than those in run" in capsys.readouterr().err


def test_a_file_that_was_cut_off_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (folder / "same.json").read_text(encoding="utf-8")
    for name, content in (("cut.json", text[:1000]), ("empty.json", "{}"), ("bytes.json", "\udcff")):
        (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
        assert invoke(["gate", "dense.json", name]) == 2
        assert capsys.readouterr().err.startswith(f"Error: {name}"), name


def test_json_is_the_same_as_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["gate", "dense.json", "open.json", "--json", "-o", "gate"]) == 3
    assert json.loads(capsys.readouterr().out) == json.loads((folder / "gate/gate.json").read_text(encoding="utf-8"))


def test_flags_set_the_margins(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["gate", "dense.json", "worse.json", "--margin", "20"]) == 0
    assert invoke(["gate", "dense.json", "worse.json", "--margin", "20", "--margin", "factoid=2"]) == 1
    assert invoke(["gate", "dense.json", "same.json", "--margin", "factoid=two"]) == 2
    assert "FAMILY=POINTS" in capsys.readouterr().err
    assert invoke(["gate", "dense.json", "same.json", "--floor", "factoid=90"]) == 2
    assert invoke(["gate", "dense.json", "same.json", "--report-only", "factoid"]) == 2
    assert invoke(["gate", "dense.json", "same.json", "--max-kl", "0.1"]) == 2
    assert invoke(["gate", "dense.json", "open.json", "--confidence", "0.6"]) == 0


def test_the_file_is_enough(folder: Path) -> None:
    toml(folder, dense="dense.json", candidate="open.json", output="out", inconclusive_ok=True)
    assert invoke(["gate"]) == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == NAMES


def test_the_file_lies_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml(folder, dense="dense.json", candidate="worse.json", output="out")
    (folder / "deep").mkdir()
    monkeypatch.chdir(folder / "deep")
    assert invoke(["gate", "--config", "../compress.toml"]) == 1
    assert (folder / "out/gate.json").is_file()


def test_flags_go_before_the_file(folder: Path) -> None:
    toml(folder, dense="dense.json", candidate="open.json", margin=30)
    assert invoke(["gate"]) == 0
    assert invoke(["gate", "--margin", "5"]) == 3
    assert invoke(["gate", "dense.json", "worse.json", "--margin", "5"]) == 1


def test_without_anything_to_judge(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert invoke(["gate"]) == 2
    assert "compress.toml" in capsys.readouterr().err
    (folder / "compress.toml").write_text("[gate]\nmargins = 3", encoding="utf-8")
    assert invoke(["gate"]) == 2
    assert "did you mean 'margin'" in capsys.readouterr().err


def test_models_are_asked_as_the_file_and_the_flags_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def evaluate(model: str, **asked: Any) -> EvalResult:
        calls.append({"model": model, **asked})
        return result(family(), baseline=result(family()))

    monkeypatch.setattr(evaluation, "evaluate", evaluate, raising=False)
    toml(folder, dense="atlas", candidate="runs/packed", suite="kick", data_dir="data", tier="pr", batch_size=8)
    assert invoke(["gate"]) == 0
    assert invoke(["gate", "--limit", "9", "--no-cache"]) == 0
    first, second = ({k: v for k, v in call.items() if k != "progress"} for call in calls)
    assert first == {
        "model": "runs/packed", "baseline": "atlas", "suite": "kick", "data_dir": "data", "tier": "pr",
        "batch_size": 8, "cache": folder / "cache/evaluations",
        "unfinished": folder / "cache/evaluations/unfinished",
    }  # fmt: skip
    assert (second["limit"], "tier" in second, "cache" in second) == (9, False, False)


def test_two_evaluations_are_judged_without_torch() -> None:
    assert not loaded_by("gate", "dense.json", "same.json") & (HEAVY - {"numpy", "scipy"})
