"""`compress run` around a faked pipeline: what is printed where, and what happens on Ctrl-C."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest

from compress import pipeline
from compress.cli import invoke
from compress.models import source
from compress.progress import Progress
from compress.recipe import Recipe
from compress.result import Result
from tests.support.models import save_tiny
from tests.support.results import dense_and_packed


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, manifest: dict[str, Any]) -> list[tuple[Recipe, bool]]:
    """Replaces the pipeline by one that notes its arguments and returns a result made by hand."""
    calls: list[tuple[Recipe, bool]] = []

    def run(recipe: Recipe, *, progress: Progress, fresh: bool) -> Result:
        calls.append((recipe, fresh))
        with progress.stage("Compressing", 1) as stage:
            stage.advance()
        return Result(Path("runs/atlas-rtn"), dense_and_packed()[1], manifest)

    monkeypatch.setattr(pipeline, "run", run)
    return calls


def test_the_table_goes_to_stdout_and_the_progress_to_stderr(
    asked: list[tuple[Recipe, bool]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["run", "--method", "rtn", "--bits", "3", "--fresh"]) == 0
    output = capsys.readouterr()
    assert "dense vs compressed" in output.out
    assert "compress.load('runs/atlas-rtn')" in output.out
    assert "Compressing" in output.err
    assert "Compressing" not in output.out
    assert [(recipe.stages[0].options, fresh) for recipe, fresh in asked] == [({"bits": 3}, True)]


def test_json_is_all_of_stdout(asked: list[tuple[Recipe, bool]], capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluation"]["paired"]["factoid"]["lost"] == 3


@pytest.mark.parametrize("started", [True, False])
def test_ctrl_c_says_where_it_stopped_and_how_to_go_on(
    started: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(recipe: Recipe, *, progress: Progress, fresh: bool) -> Result:
        if started:
            with progress.stage("Compressing", 16) as stage:
                stage.advance(3, "model.layers.2")
                raise KeyboardInterrupt
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupted)
    assert invoke(["run"]) == 130
    said = capsys.readouterr().err
    if started:
        assert "at Compressing 3/16 (model.layers.2). Run the same command again" in said
    else:
        assert "before anything was compressed" in said


def test_a_dry_run_loads_the_tokenizer_once_and_does_not_collect_garbage_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load, collecting = source.load_tokenizer, []

    def noted(folder: Path, name: str) -> Any:
        collecting.append(gc.isenabled())
        return load(folder, name)

    monkeypatch.setattr(source, "load_tokenizer", noted)
    options = ["--model", str(save_tiny(tmp_path / "model")), "--samples", "4", "--seq-len", "16"]
    assert invoke(["run", "--dry-run", "--method", "gptq", *options]) == 0
    assert "calibration  self" in capsys.readouterr().out  # both the suite and the text asked for the tokenizer
    assert collecting == [False] and gc.isenabled()
    assert invoke(["run", "--dry-run", "--model", str(tmp_path)]) == 2
    assert gc.isenabled()
