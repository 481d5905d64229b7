"""A dry run refuses what the run would refuse before its work, in the same words, and writes nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress import pipeline
from compress.errors import CompressError
from compress.recipe import Recipe, StageSpec
from compress.report.table import plan as table
from compress.stages import train
from compress.stages.pack import block_loop, streaming
from tests.support.models import save_tiny


def _file_in_the_way(folder: Path) -> dict[str, Any]:
    (folder / "runs").write_text("words", encoding="utf-8")
    return {"output": str(folder / "runs" / "out")}


def _foreign(folder: Path) -> dict[str, Any]:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("words", encoding="utf-8")
    return {}


def _of_another_run(folder: Path) -> dict[str, Any]:
    (folder / "out/.work").mkdir(parents=True)
    (folder / "out/.work/block-000.json").write_text("{}", encoding="utf-8")
    identity = {"recipe_hash": "of another", "source": "of another"}
    (folder / "out/.work/run.json").write_text(json.dumps(identity), encoding="utf-8")
    return {}


def _no_tokenizer(folder: Path) -> dict[str, Any]:
    for path in (folder / "model").glob("token*"):
        path.unlink()
    return {"calibration": str(_rows(folder))}


def _rows(folder: Path) -> Path:
    (folder / "rows.jsonl").write_text('{"body": "a b c", "title": "d e f"}\n' * 9, encoding="utf-8")
    return folder / "rows.jsonl"


CASES: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "calibration file": (lambda folder: {"calibration": str(folder / "none.txt")}, r"none\.txt cannot be read"),
    "column": (lambda folder: {"calibration": str(_rows(folder)), "column": "text"}, "no column 'text'"),
    "column not named": (lambda folder: {"calibration": str(_rows(folder))}, "Name one with --column body"),
    "context": (lambda folder: {"seq_len": 4096}, "up to 64, the model's context"),
    "too little text": (lambda folder: {"samples": 10_000}, "10000 samples of 16 need"),
    "tokenizer": (_no_tokenizer, "has no tokenizer"),
    "data of the suite": (lambda folder: {"suite": "kick", "data_dir": str(folder / "no")}, "there is no such folder"),
    "questions": (lambda folder: {"suite": "no.jsonl"}, r"no file of questions no\.jsonl"),
    "chat mode": (lambda folder: {"suite": "kick-atlas", "chat": "sometimes"}, "unknown chat mode 'sometimes'"),
    "chat template": (lambda folder: {"suite": "kick-atlas", "chat": "always"}, "has no chat template"),
    "output is a file": (_file_in_the_way, r"runs is a file, so that .*out cannot be made"),
    "output of others": (_foreign, "out holds something else"),
    "output of another run": (_of_another_run, "out holds a run with another recipe"),
    "memory": (lambda folder: {"max_memory": "10MB"}, "--max-memory"),
    "no such linear": (lambda folder: {"skip": ("*.nothing",)}, "matches no linear"),
    "width": (lambda folder: {"group_size": 12}, "group_size=12 does not divide"),
}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((block_loop, "run"), (streaming, "run"), (train, "_train")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("the run has come to its work"))


def _refused(recipe: Recipe, folder: Path) -> str:
    """Returns what the dry run says; the run must say the same, and neither may leave anything in the folder."""
    before = sorted(folder.rglob("*"))
    said = []
    for make in (pipeline.plan, pipeline.run):
        with pytest.raises(CompressError) as error:
            make(recipe)
        said.append(str(error.value))
        assert sorted(folder.rglob("*")) == before
    assert said[0] == said[1] or "--max-memory" in said[0]  # the memory in use now is part of the sentence
    return said[0]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("case", CASES)
def test_both_refuse_the_same(case: str, tmp_path: Path, token_file: str) -> None:
    prepare, message = CASES[case]
    model = save_tiny(tmp_path / "model")
    options = {"output": str(tmp_path / "out"), "calibration": token_file, "samples": 4, "seq_len": 16, "suite": "none"}
    recipe = Recipe.from_options(str(model), "gptq", options | prepare(tmp_path))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(_refused(recipe, tmp_path))


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("second", "message"),
    [
        (StageSpec(method="rtn", options={"bits": 99}), "bits=99"),
        (StageSpec(method="rtn"), "out holds something else"),
    ],
    ids=["options", "folder"],
)
def test_later_stages_are_refused_before_the_first_one_works(second: StageSpec, message: str, tmp_path: Path) -> None:
    _foreign(tmp_path)
    stages = (StageSpec(method="none"), second)
    model = str(save_tiny(tmp_path / "model"))
    recipe = Recipe(model=model, stages=stages, output=str(tmp_path / "out"), suite="none")
    assert message in _refused(recipe, tmp_path)


@pytest.mark.usefixtures("no_work")
def test_a_student_that_is_its_own_teacher_is_refused(tmp_path: Path, token_file: str) -> None:
    options = {"output": str(tmp_path / "out"), "calibration": token_file, "samples": 4, "seq_len": 16, "suite": "none"}
    model = str(save_tiny(tmp_path / "model"))
    assert "the teacher is the student itself" in _refused(Recipe.from_options(model, "distill", options), tmp_path)


def test_a_run_of_another_recipe_is_no_reason_with_fresh(tmp_path: Path, token_file: str) -> None:
    model = str(save_tiny(tmp_path / "model"))
    _of_another_run(tmp_path)
    plan = pipeline.plan(
        Recipe.from_options(model, "rtn", {"output": str(tmp_path / "out"), "suite": "none"}), fresh=True
    )
    shown = table.render(dataclasses.asdict(plan))
    assert "figures      bits/weight measured here on a random weight; output computed from" in shown
    assert "time estimated from a random weight that was packed here" in shown
