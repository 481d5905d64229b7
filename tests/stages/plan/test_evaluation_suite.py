"""The questions of a run: what the plan says of them, and that unreadable ones stop it before any work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from compress import pipeline
from compress.errors import EvaluationError
from compress.progress import Silent
from compress.recipe import Recipe
from compress.report.table import plan as table
from tests.support import kick_data
from tests.support.models import save_tiny


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(save_tiny(tmp_path / "model"))


def evaluation_of(model: str, **options: Any) -> tuple[dict[str, Any] | None, str]:
    """The record of the plan, and the lines that show it."""
    plan = dataclasses.asdict(pipeline.plan(Recipe.from_options(model, "rtn", options)))
    shown = [line for line in table.render(plan).splitlines() if line.startswith(("evaluation", "warning"))]
    return plan["evaluation"], "\n".join(shown)


def test_the_plan_names_the_questions_and_the_reason(model: str, tmp_path: Path) -> None:
    data = kick_data.write(tmp_path / "data")
    record, shown = evaluation_of(model, data_dir=data)
    assert record is not None and (record["suite"], record["tier"], record["windows"]) == ("kick", "pr", 64)
    assert record["families"] == {
        "factoid": 12, "multiple_choice": 36, "retrieval": 6, "summarisation": 6, "instruction": 6,
    }  # fmt: skip
    assert shown == (
        "evaluation   kick, tier pr: 12 factoid, 36 multiple choice, 6 retrieval, 6 summarisation, 6 instruction, "
        "up to 64 windows of held-out text (the data of --data-dir)"
    )
    (data / "cnn_dailymail.jsonl").unlink()
    record, shown = evaluation_of(model, data_dir=data, limit=4)
    assert record is not None and record["families"] == {
        "factoid": 4, "multiple_choice": 4, "retrieval": 4, "instruction": 4,
    }  # fmt: skip
    assert "cnn_dailymail.jsonl is not in" in shown


def test_without_data_the_plan_says_that_nothing_is_asked(model: str) -> None:
    record, shown = evaluation_of(model)  # the tests have no network
    assert record is not None and (record["suite"], record["families"]) == ("heldout", {})
    assert "heldout, tier pr: no questions, up to 64 windows" in shown and "cannot be reached" in shown
    assert evaluation_of(model, suite="none") == (None, "evaluation   none")


class Noted(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class WorkError(Exception):
    """The run has come to its work."""


def test_a_run_says_it_when_it_starts_and_stops_before_the_work_if_it_cannot_ask(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object) -> None:
        raise WorkError

    monkeypatch.setattr(pipeline, "make_checkpoint", work)
    progress = Noted()
    with pytest.raises(EvaluationError, match="no such folder"):
        pipeline.run(model, "rtn", output=tmp_path / "out", progress=progress, data_dir=str(tmp_path / "missing"))
    with pytest.raises(WorkError):
        data = str(kick_data.write(tmp_path / "data"))
        pipeline.run(model, "rtn", output=tmp_path / "out", progress=progress, data_dir=data, limit=1)
    assert progress.notes[0].startswith("Evaluation: kick: 1 factoid, 1 multiple choice")
