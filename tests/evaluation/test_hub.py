"""Datasets of the hub: what is asked for, and their columns in the form of our files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from compress.errors import EvaluationError
from compress.evaluation import suites
from compress.evaluation.suites import _hub

# One row per dataset, in the columns that it has there.
LETTERED = {"text": ["dog", "cat"], "label": ["A", "B"]}
THERE: dict[str, list[dict[str, Any]]] = {
    "stanfordnlp/web_questions": [{"url": "u", "question": "who?", "answers": ["Ada"]}],
    "mandarjoshi/trivia_qa": [{"question": "Who?", "question_id": "t_1", "answer": {"value": "Ada", "aliases": ["A"]}}],
    "cais/mmlu": [{"question": "How?", "subject": "art", "choices": ["a", "b", "c", "d"], "answer": 2}],
    "allenai/ai2_arc": [{"id": "M1", "question": "Which?", "choices": LETTERED, "answerKey": "B"}],
    "google/boolq": [{"question": "is it", "answer": True, "passage": "It is."}],
    "allenai/openbookqa": [{"id": "7-1", "question_stem": "It is a", "choices": LETTERED, "answerKey": "A"}],
    "baber/piqa": [{"goal": "Open", "sol1": "pull", "sol2": "push", "label": 1}],
    "allenai/winogrande": [{"sentence": "The cat sat as _ was old.", "option1": "it", "option2": "he", "answer": "2"}],
    "mrqa-workshop/mrqa": [
        {"subset": "SQuAD", "qid": "s", "question": "no", "answers": ["x"], "context": "no"},
        {"subset": "NaturalQuestionsShort", "qid": "n1", "question": "who", "answers": ["Ada"],
         "context": "<P> It was Ada . </P>"},
    ],
    "abisee/cnn_dailymail": [{"id": "c1", "article": "It fell.", "highlights": "Fell ."}],
    "HuggingFaceH4/mt_bench_prompts": [{"prompt": ["Write.", "Shorter."], "prompt_id": 81, "category": "writing"}],
    "Salesforce/wikitext": [{"text": ""}, {"text": " = Towers = \n"}, {"text": " High .\n"}],
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(dataset: str, config: str | None, *, split: str, revision: str) -> list[dict[str, Any]]:
        calls.append((dataset, config, split, revision))
        return THERE[dataset]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_the_suite_of_the_hub(asked: list[tuple[Any, ...]]) -> None:
    suite = suites.load("kick")
    found = {item["id"]: item for family in suite.families for item in family.items}
    assert suite.warnings == ()
    assert len(found) == 2 + 7 + 1 + 1 + 1
    assert found["triviaqa/t_1"]["answers"] == ["Ada", "A"]
    assert found["mmlu/art/0"]["gold"] == 2
    assert found["arc_easy/M1"]["prompt"] == "Question: Which?\nAnswer:" and found["arc_easy/M1"]["gold"] == 1
    assert found["openbook_qa/7-1"]["prompt"] == "It is a" and found["openbook_qa/7-1"]["gold"] == 0
    assert found["boolq/0"]["prompt"] == "Passage: It is.\nQuestion: is it?\nAnswer:" and found["boolq/0"]["gold"] == 1
    assert found["winogrande/0"]["contexts"] == ["The cat sat as it", "The cat sat as he"]
    assert (found["winogrande/0"]["continuation"], found["winogrande/0"]["gold"]) == (" was old.", 1)
    assert found["nq/n1"]["open_prompt"].startswith("It was Ada .\n\nQuestion: who?")
    assert suite.heldout() == [" = Towers = \n High ."]
    pinned = re.compile(r"[^@]+@[0-9a-f]{40}")
    assert all(pinned.fullmatch(source) for source in suite.sources.values())
    assert ("cais/mmlu", "all", "dev", _hub.PLACES["mmlu_dev"].revision) in asked


def test_another_column_is_an_error_that_names_the_dataset(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(THERE, "baber/piqa", [{"goal": "Open", "solution": "pull"}])
    with pytest.raises(EvaluationError, match=r"row 0 of baber/piqa@.* is not as expected: KeyError\('sol1'\)"):
        suites.load("kick")


def test_what_the_hub_does_not_give_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(EvaluationError, match=r"cannot be had from the hub: offline.*--data-dir"):
        suites.load("kick")


def test_a_folder_never_asks_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (tmp_path / "heldout.txt").write_text("Text.")
    with pytest.raises(EvaluationError, match="none of the datasets"):
        suites.load("kick", tmp_path)
