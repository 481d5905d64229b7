"""lm-eval's own tasks as families: here tasks from YAML files with data beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.errors import EvaluationError
from compress.evaluation import EvalResult, evaluate
from compress.evaluation.lm_eval_suite import harness
from tests.support import tiny_suite as tiny

CHOICES = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: answer
doc_to_choice: ["no", "yes", "perhaps"]
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ANSWERS = """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "never"
generation_kwargs: {until: ["\\n"], max_gen_toks: 5, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
TEXTS = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}]
"""
CORPUS = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: answer
doc_to_choice: ["no", "yes", "perhaps"]
metric_list: [{metric: brier_score, higher_is_better: false}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": f"Is {i} large?", "answer": i % 3} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def task(folder: Path, name: str, form: str) -> str:
    data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\ntest_split: test\n"
    (folder / f"{name}.yaml").write_text(f"task: {name}\n{data}{form}")
    return str(folder / f"{name}.yaml")


def ask(*tasks: str, seed: int = 0, **options: Any) -> EvalResult:
    return evaluate(
        tiny.plain_spoken(seed),
        tokenizer=tiny.tokenizer(),
        suite=tiny.suite(),
        tasks=tasks,
        **options,
    )


def test_a_task_is_a_family_of_its_own_and_pairs(folder: Path) -> None:
    names = [task(folder, "choices", CHOICES), task(folder, "answers", ANSWERS)]
    found = ask(*names, seed=1, baseline=tiny.plain_spoken(0))
    assert list(found.families) == ["said", "chosen", "recalled", "choices", "answers"]
    assert found.settings["tasks"] == names
    chosen, said = found.families["choices"], found.families["answers"]
    assert (chosen.primary, chosen.kind, len(chosen.items)) == ("acc_norm", "binary", 8)
    assert {item.answer for item in chosen.items} <= {0, 1, 2}
    assert set(chosen.items[0].metrics) >= {"acc", "acc_norm"}
    assert (said.primary, said.kind, said.score) == ("exact_match", "binary", 0.0)
    assert all(len(str(item.answer)) <= 5 for item in said.items) and any(item.answer for item in said.items)
    assert len({item.prompt_hash for item in chosen.items}) == 8
    assert found.comparison is not None and found.comparison.families["answers"].answers_changed > 0
    assert EvalResult.from_json(found.to_json()) == found


def test_a_limit_asks_a_seeded_subset(folder: Path) -> None:
    name = task(folder, "choices", CHOICES)
    everything = {item.id: item for item in ask(name).families["choices"].items}
    some = ask(name, limit=3).families["choices"].items
    assert len(some) == 3 and [item.id for item in some] != ["choices/0", "choices/1", "choices/2"]
    assert all(everything[item.id] == item for item in some)


def test_the_likelihood_of_texts_becomes_a_probability(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = ask(task(folder, "texts", TEXTS)).families["texts"]
    assert found.kind == "continuous" and found.primary == "bits_per_byte"
    assert all(0 < item.outcome < 1 for item in found.items)
    assert capfd.readouterr() == ("", "")


def test_a_task_that_cannot_be_paired_is_refused(folder: Path) -> None:
    with pytest.raises(EvaluationError, match="no metric by which items can be paired: brier_score"):
        ask(task(folder, "odd", CORPUS))


def test_a_task_that_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(EvaluationError, match="no task file"):
        ask(str(folder / "none.yaml"))
    with pytest.raises(EvaluationError, match="could not be downloaded"):
        (folder / "rows.jsonl").rename(folder / "elsewhere.jsonl")
        ask(task(folder, "choices", CHOICES))


def test_a_name_that_lm_eval_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import tasks

    real = tasks.TaskManager
    monkeypatch.setattr(tasks, "TaskManager", lambda include_defaults: real(include_defaults=False))  # all take 10 s
    monkeypatch.setattr(harness, "run", lambda *_, **__: pytest.fail("the suite was asked first"))
    with pytest.raises(EvaluationError, match="unknown lm-eval task 'helaswag'"):
        ask("helaswag")
