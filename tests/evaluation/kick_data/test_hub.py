"""Datasets of the hub: what is asked for, and their columns in the form of our files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow
import pytest
from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled
from pyarrow import parquet

from compress.errors import EvaluationError
from compress.evaluation import suites
from compress.evaluation.kick_data import hub

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
        {"subset": "SQuAD", "qid": "s", "question": "no", "answers": ["x"], "context": "no", "context_tokens": [1]},
        {"subset": "NaturalQuestionsShort", "qid": "n1", "question": "who", "answers": ["Ada"],
         "context": "<P> It was Ada . </P>", "context_tokens": [2]},
    ],
    "abisee/cnn_dailymail": [{"id": "c1", "article": "It fell.", "highlights": "Fell ."}],
    "HuggingFaceH4/mt_bench_prompts": [{"prompt": ["Write.", "Shorter."], "question_id": 81, "category": "writing"}],
    "Salesforce/wikitext": [{"text": ""}, {"text": " = Towers = \n"}, {"text": " High .\n"}],
}  # fmt: skip


Asked = list[tuple[str, str, str, str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    """A hub of the rows above, in files as the true one has them; the requests are noted."""
    calls: Asked = []

    def download(dataset: str, file: str, *, repo_type: str, revision: str) -> str:
        calls.append((repo_type, dataset, revision, file))
        path = tmp_path / dataset / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".jsonl"):
            path.write_text("".join(f"{json.dumps(row)}\n" for row in THERE[dataset]), encoding="utf-8")
        else:
            parquet.write_table(pyarrow.Table.from_pylist(THERE[dataset]), path)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return calls


def test_the_suite_of_the_hub(asked: Asked) -> None:
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
    assert found["mt_bench/81"]["turns"] == ["Write.", "Shorter."]
    revision = hub.PLACES["mmlu_dev"].revision
    assert ("dataset", "cais/mmlu", revision, "all/dev-00000-of-00001.parquet") in asked
    assert len(asked) == len(hub.PLACES) == len(set(asked)), "each file once, and no other"


def test_only_the_columns_that_are_read_are_taken(asked: Asked) -> None:
    place = hub.PLACES["nq_open_oracle"]
    rows = list(hub._read(place, hub._fetched(place)))
    assert all(set(row) == set(place.columns) for row in rows)


def test_another_column_is_an_error_that_names_the_dataset(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(THERE, "baber/piqa", [{"goal": "Open", "solution": "pull"}])
    with pytest.raises(EvaluationError, match=r"row 0 of baber/piqa@.* is not as expected: it lacks sol1"):
        suites.load("kick")


@pytest.mark.parametrize("refusal", [ConnectionError, OfflineModeIsEnabled, EntryNotFoundError, ValueError])
def test_what_the_hub_does_not_give_is_an_error(refusal: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise refusal("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(EvaluationError, match=r"could not be downloaded from the hub: offline.*--data-dir"):
        suites.load("kick")


def test_a_hub_out_of_reach_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, timeout: float, **__: Any) -> None:
        assert timeout < 30
        raise ConnectionError("no route")

    def download(*_: Any, **__: Any) -> None:
        raise AssertionError("a download would try again and again")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(hub.NotDownloadedError, match="no route"):
        suites.load("kick")


def test_a_file_that_was_downloaded_before_needs_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = hub.PLACES["mt_bench"]
    kept = tmp_path / "question.jsonl"
    kept.write_text(json.dumps(THERE[place.dataset][0]), encoding="utf-8")

    def of_cache(dataset: str, file: str, *, repo_type: str, revision: str) -> str:
        assert (dataset, file, repo_type, revision) == (place.dataset, place.file, "dataset", place.revision)
        return str(kept)

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", of_cache)
    assert hub.rows(place) == [{"id": "81", "category": "writing", "turns": ["Write.", "Shorter."]}]


def test_a_damaged_file_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(path))
    with pytest.raises(EvaluationError, match="cannot be read"):
        suites.load("kick")


def test_a_folder_never_asks_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    (tmp_path / "heldout.txt").write_text("Text.")
    with pytest.raises(EvaluationError, match="none of the datasets"):
        suites.load("kick", tmp_path)
