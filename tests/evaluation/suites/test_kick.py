"""The suite kick on a small folder of data: what is asked, how it is graded, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from compress.errors import EvaluationError
from compress.evaluation import evaluate, suites
from compress.evaluation.suites.base import Family, Followed, Item, Suite
from compress.texts.chat import Message
from tests.support import kick_data
from tests.support import tiny_suite as tiny

ROOM = 700  # tokens of the tiny tokenizer, which are bytes: four examples of MMLU do not fit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kick_data.write(tmp_path_factory.mktemp("kick"))


@pytest.fixture(scope="module")
def suite(folder: Path) -> Suite:
    return suites.load("kick", folder)


def family(suite: Suite, name: str) -> Family:
    return next(family for family in suite.families if family.name == name)


def item(suite: Suite, name: str, key: str) -> Item:
    return next(item for item in family(suite, name).items if item["id"] == key)


def test_all_families_with_all_items(suite: Suite) -> None:
    sizes = {family.name: len(family.items) for family in suite.families}
    assert sizes == {"factoid": 12, "multiple_choice": 36, "retrieval": 6, "summarisation": 6, "instruction": 6}
    assert suite.warnings == ()
    assert suite.sources["mmlu_test"] == "mmlu_test.jsonl"
    for asked in suite.families:
        assert len({item["id"] for item in asked.items}) == len(asked.items)


def test_the_prompts(suite: Suite) -> None:
    assert item(suite, "factoid", "webquestions/q1")["prompt"] == "Question: who built tower 1?\nAnswer:"
    assert item(suite, "factoid", "triviaqa/q1")["answers"] == ["Ada Lovelace 1", "Ada 1", "A. 1"]
    opened = item(suite, "retrieval", "nq/q1")
    assert opened["open_prompt"] == f"Tower 0\nAda 1 built tower 1.\n\n{opened['closed_prompt']}"
    clusters = [item(suite, "retrieval", f"nq/q{i}")["cluster"] for i in range(3)]
    assert clusters[0] == clusters[1] != clusters[2]
    ending = item(suite, "multiple_choice", "winogrande/w2")
    assert (ending["contexts"][1], ending["continuation"]) == ("2 towers fell, as cows", " blew.")
    assert item(suite, "multiple_choice", "boolq/c0")["prompt"].endswith("Question: is tower 0 high?\nAnswer:")


def test_no_reference_stands_in_its_prompt(suite: Suite) -> None:
    summary = item(suite, "summarisation", "cnn_dailymail/n3")
    assert "highlight" not in summary["prompt"] and "leak" not in summary["prompt"]
    assert summary["reference"] == "Fell 3 . On Monday ." and summary["reference"] not in summary["prompt"]


def test_examples_of_mmlu_are_of_the_subject_and_become_fewer(suite: Suite) -> None:
    asked = item(suite, "multiple_choice", "mmlu/s1")
    forms = list(family(suite, "multiple_choice").shorter(asked))
    assert len(forms) == 4  # three examples of the subject, two, one, none
    longest, shortest = forms[0]["prompt"], forms[-1]["prompt"]
    assert longest.startswith("The following are multiple choice questions (with answers) about tower 1.\n\n")
    assert [f"How high is {i}?" in longest for i in range(6)] == [False, True, False, True, False, True]
    assert "How high is 3?\nA. one\nB. two\nC. three\nD. four\nAnswer: D\n\n" in longest
    assert shortest.count("Answer:") == 1 and shortest.endswith("D. four\nAnswer:")
    assert asked["choices"] == [" A", " B", " C", " D"] and asked["cluster"] == "mmlu/tower_1"


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Ada 3", 1), (" it was Ada 3.", 1), ("ada 3\nBob", 1), ("", 0), ("Ada", 0), ("Bob\nAda 3", 0)],
)
def test_a_fact_is_matched_one_way_on_the_first_line(suite: Suite, answer: str, right: int) -> None:
    asked = item(suite, "factoid", "webquestions/q3")
    graded = family(suite, "factoid").asks[0].grade(asked, answer)
    assert graded["contains"] == right
    assert graded["empty"] == (answer == "")


def test_choices_of_texts_are_compared_by_byte_and_letters_are_not(suite: Suite) -> None:
    ask = family(suite, "multiple_choice").asks[0]
    texts = item(suite, "multiple_choice", "piqa/c1")  # " no" or " very", which is right
    graded = ask.grade(texts, [-3.0, -4.0])  # −1.5 and −1 per byte
    assert ask.pick(texts, [-3.0, -4.0]) == 1
    assert (graded["correct"], graded["likeliest"], graded["margin"]) == (1.0, 0.0, -1.0)
    yes = item(suite, "multiple_choice", "boolq/c0")
    assert ask.pick(yes, [-3.0, -4.0]) == 0 and ask.grade(yes, [-3.0, -4.0])["correct"] == 1


def test_retrieval_reports_what_the_passage_gains(suite: Suite) -> None:
    asked = family(suite, "retrieval")
    question = asked.items[2]
    graded = asked.asks[0].grade(question, "Ada 2") | asked.asks[1].grade(question, "nobody")
    assert asked.derive is not None
    derived = asked.derive(question, {}, graded)
    assert (derived["open_book"], derived["closed_book"], derived["passage_gain"]) == (1.0, 0.0, 1.0)


def chat(messages: Sequence[Message]) -> str:
    return "|".join(message["content"] for message in messages) + ">"


def conversation(suite: Suite, references: dict[str, str]) -> Item:
    asked = family(suite, "instruction")
    assert asked.prepare is not None
    return asked.prepare(asked.items[0], references, chat)


def test_the_second_turn_follows_the_reference_answer(suite: Suite) -> None:
    assert "prompt_2" not in conversation(suite, {})
    prepared = conversation(suite, {"turn_1": "High.", "turn_2": ""})
    assert prepared["prompt_2"] == "Describe 0.|High.|Shorter.>"
    assert (prepared["reference_1"], prepared["reference_2"]) == ("High.", "")


def graded_instruction(suite: Suite, dense: list[str], said: list[str], found: list[Followed]) -> dict[str, float]:
    asked = family(suite, "instruction")
    prepared = conversation(suite, {"turn_1": dense[0], "turn_2": dense[1]})
    follows = [ask for ask in asked.asks if ask.kind == "follow"]
    counts = {k: v for ask, one in zip(follows, found, strict=True) for k, v in ask.grade(prepared, one).items()}
    assert asked.derive is not None
    return asked.derive(prepared, {"turn_1": said[0], "turn_2": said[1]}, counts)


def test_instructions_are_graded_by_agreement_over_both_turns(suite: Suite) -> None:
    found = [Followed(nll=6.0, tokens=6, agreed=5), Followed(nll=3.0, tokens=2, agreed=1)]
    graded = graded_instruction(suite, ["a b c d", "e f"], ["a b x d", "e f g"], found)
    assert graded["agreement"] == 6 / 8
    assert graded["dense_nll_per_byte"] == 9 / 10  # "a b c d" and "e f"
    assert graded["same_start"] == (0.5 + 1.0) / 2
    assert (graded["words"], graded["empty"]) == (3.5, 0.0)


@pytest.mark.parametrize(("said", "agreement"), [("", 1.0), ("Something.", 0.0)])
def test_a_dense_model_that_says_nothing_is_agreed_with_by_silence(suite: Suite, said: str, agreement: float) -> None:
    graded = graded_instruction(suite, ["", ""], [said, said], [Followed(0.0, 0, 0)] * 2)
    assert graded["agreement"] == agreement
    assert graded["empty"] == float(not said)


def test_a_folder_without_a_dataset_says_so(tmp_path: Path) -> None:
    content = kick_data.rows()
    for name in ("cnn_dailymail", "piqa"):
        del content[name]
    found = suites.load("kick", kick_data.write(tmp_path, content))
    assert [family.name for family in found.families] == ["factoid", "multiple_choice", "retrieval", "instruction"]
    assert [warning.split(" ")[0] for warning in found.warnings[:2]] == ["piqa.jsonl", "cnn_dailymail.jsonl"]
    assert found.warnings[2] == "the family summarisation has no data; left out"


def test_freebaseqa_is_read_as_it_is_published(tmp_path: Path) -> None:
    published = {"Questions": [{"Question-ID": "F-1", "RawQuestion": "Who?",
                                "Parses": [{"Answers": [{"AnswersName": ["ada", "ada l."]}]},
                                           {"Answers": [{"AnswersName": ["ada"]}]}]}]}  # fmt: skip
    (tmp_path / "FreebaseQA-eval.json").write_text(json.dumps(published))
    found = suites.load("kick", tmp_path)
    (asked,) = found.families[0].items
    assert (asked["id"], asked["answers"]) == ("freebaseqa/F-1", ["ada", "ada l."])
    (tmp_path / "FreebaseQA-eval.json").write_text('{"Questions": [{}]}')
    with pytest.raises(EvaluationError, match="not FreebaseQA"):
        suites.load("kick", tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        (
            "piqa",
            {"answer": 2},
            r"piqa.jsonl, line 3: answer=2. Allowed: 0 to 1: the place of",
        ),
        ("piqa", {"answer": "1"}, r"line 3: answer='1'.*an integer"),
        ("webquestions_test", {"aliases": []}, r"line 3: aliases=\[\]"),
        ("webquestions_test", {"aliases": ["", "\u200b"]}, r"line 3: no answer can ever match"),
        ("nq_open_oracle", {"passage": None}, r"line 3: passage=None"),
        ("mt_bench", {"id": 80}, r"line 3: duplicate id '80'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, change: dict[str, Any], complaint: str) -> None:
    content = kick_data.rows()
    content[name][2] |= change
    with pytest.raises(EvaluationError, match=complaint):
        suites.load("kick", kick_data.write(tmp_path, content))


def test_other_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="none of the datasets"):
        suites.load("kick", tmp_path)
    with pytest.raises(EvaluationError, match="no such folder"):
        suites.load("kick", tmp_path / "none")
    (tmp_path / "piqa.jsonl").write_text("{\n")
    with pytest.raises(EvaluationError, match=r"piqa.jsonl, line 1: not JSON"):
        suites.load("kick", tmp_path)
    (tmp_path / "piqa.jsonl").write_text("\n")
    with pytest.raises(EvaluationError, match="is empty"):
        suites.load("kick", tmp_path)
    with pytest.raises(EvaluationError, match="has its own data"):
        suites.load("kick-atlas", tmp_path)


def test_a_line_separator_inside_a_text_is_no_end_of_line(tmp_path: Path) -> None:
    content = kick_data.rows()
    content["piqa"][0]["query"] = "Question: one\u2028two?"
    assert len(suites.load("kick", kick_data.write(tmp_path, content)).families) == 5


def test_held_out_text_is_the_best_that_is_there(tmp_path: Path, suite: Suite) -> None:
    assert suite.heldout() == [f"Ada {i} built tower {i}." for i in range(6)]
    lines = [" = Towers = \n", " A tower .\n", " = = Height = = \n", " High .\n", " = Wells = \n", " Deep .\n"]
    content = kick_data.rows() | {"wikitext2_test": [{"id": i, "text": text} for i, text in enumerate(lines)]}
    folder = kick_data.write(tmp_path, content)
    assert [text.count("\n") for text in suites.load("kick", folder).heldout()] == [3, 1]
    (folder / "heldout.txt").write_text("One.\nTwo.\n\nThree.\n")
    assert suites.load("kick", folder).heldout() == ["One.\nTwo.", "Three."]


def test_the_whole_suite_runs_pairs_and_says_what_did_not_fit(folder: Path) -> None:
    def ask(seed: int, **options: Any) -> Any:
        model = tiny.plain_spoken(seed, max_position_embeddings=ROOM)
        return evaluate(model, tokenizer=tiny.tokenizer(), suite="kick", data_dir=folder, limit=4, **options)

    found = ask(1, baseline=tiny.plain_spoken(0, max_position_embeddings=ROOM))
    assert found.comparison is not None and found.baseline is not None
    assert {name: paired.n for name, paired in found.comparison.families.items()} == dict.fromkeys(
        ("factoid", "multiple_choice", "retrieval", "summarisation", "instruction"), 4
    )
    assert found.comparison.families["instruction"].answers_changed > 0
    dense, packed = found.baseline.families["instruction"], found.families["instruction"]
    assert dense.score == 1.0 > packed.score
    assert [item.prompt_hash for item in dense.items] == [item.prompt_hash for item in packed.items]
    assert found.suite["sources"]["piqa"] == "piqa.jsonl"
    assert 0 < found.families["summarisation"].score < 1
    assert found.families["multiple_choice"].chance > 0.25
    assert found.warnings == ()
    assert type(found).from_json(found.to_json()) == found


def test_items_that_are_too_long_are_left_out_counted_and_said(folder: Path) -> None:
    model = tiny.plain_spoken(0, max_position_embeddings=110)
    found = evaluate(model, tokenizer=tiny.tokenizer(), suite="kick", data_dir=folder)
    chosen = found.families["multiple_choice"]
    assert chosen.left_out > 0 and chosen.left_out + len(chosen.items) == 36
    assert not any(item.id.startswith("mmlu/") for item in chosen.items)
    assert f"multiple_choice: {chosen.left_out} of 36 items are longer than the 110 tokens" in " ".join(found.warnings)
    assert {"instruction", "summarisation"} & found.families.keys() == set()
    assert any(warning.startswith("instruction: every item is longer") for warning in found.warnings)
