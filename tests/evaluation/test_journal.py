"""An evaluation that was killed goes on from its replies and ends with the same result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from compress.evaluation import EvalResult, evaluate
from compress.evaluation.journal import Journal, key
from compress.progress import Silent
from tests.support import tiny_suite as tiny


class Killed(BaseException):
    """Stands for the end of the process."""


class Counting(Silent):
    """Counts the tokens of every part, and ends everything half-way through the part `end_in` of the sizes `whole`."""

    def __init__(self, end_in: str = "", whole: dict[str, int] | None = None) -> None:
        self.end_in, self.whole, self.total = end_in, whole or {}, 0
        self.parts: dict[str, int] = {}

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Any]:
        assert title == "Evaluation"
        self.total = total
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.parts[note] = self.parts.get(note, 0) + steps
        if note == self.end_in and self.parts[note] > self.whole[note] / 2:
            raise Killed


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"model-{seed}")
        tiny.model(seed).save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        folders.append(folder)
    return folders[0], folders[1]


def measure(models: tuple[Path, Path], unfinished: Path | None, progress: Counting) -> EvalResult:
    dense, other = models
    return evaluate(other, baseline=dense, suite=tiny.suite(), batch_size=4, unfinished=unfinished, progress=progress)


def test_an_evaluation_killed_anywhere_ends_with_the_same_result(models: tuple[Path, Path], tmp_path: Path) -> None:
    whole = Counting()
    expected = measure(models, None, whole)
    assert sum(whole.parts.values()) == whole.total
    totals = []
    for part in list(whole.parts)[1:]:
        stopping = Counting(part, whole.parts)
        with pytest.raises(Killed):  # among the questions of the dense model, then among those of the other one
            measure(models, tmp_path, stopping)
        totals.append(stopping.total)
        journal, *_ = [path for path in tmp_path.iterdir() if path.stat().st_size == max(
            each.stat().st_size for each in tmp_path.iterdir())]  # fmt: skip
        with journal.open("a") as file:
            file.write('{"torn": [1, ')
    resumed = Counting()
    assert measure(models, tmp_path, resumed) == expected
    assert sum(resumed.parts.values()) == resumed.total < totals[1] < totals[0] == whole.total, "nothing is asked again"
    assert list(tmp_path.iterdir()) == [], "a complete evaluation leaves nothing behind"


def test_replies_come_back_as_they_were_and_a_torn_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "replies.jsonl"
    journal = Journal(path, {"model": "a"})
    journal.add({"x": [0.1 + 0.2, 3], "y": "an answer\u2028 of two lines\n"})
    journal.add({"z": 1e-300})
    with path.open("ab") as file:
        file.write('{"w": "ä'.encode()[:-1])
    again = Journal(path, {"model": "a"})
    assert again.replies == journal.replies and again.replies["x"][0] == 0.1 + 0.2
    again.add({"w": 1})
    assert Journal(path, {"model": "a"}).replies == {**journal.replies, "w": 1}


def test_replies_of_another_model_are_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    Journal(path, {"model": "a"}).add({"x": 1})
    assert Journal(path, {"model": "b"}).replies == {}
    assert Journal(path, {"model": "a"}).replies == {}, "the file belongs to the other one now"


def test_different_questions_have_different_keys() -> None:
    assert len({key("answer", [1], 2), key("answer", [1, 2]), key("follow", [1], 2), key("answer", [1], 3)}) == 4
