"""A suite from a file of questions."""

import json

import pytest

from compress.errors import EvaluationError
from compress.evaluation import suites


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


def test_questions_answers_and_documents(tmp_path):
    path = write(
        tmp_path / "facts.jsonl",
        {"question": "Who?", "answer": "Ada", "aliases": ["Ada L."], "id": "ada", "subject": "ignored"},
        "",
        {"question": "Where?", "answers": ["Bath", "Aquae Sulis"]},
    )
    suite = suites.load(path)
    (family,) = suite.families
    assert (suite.name, family.name, family.kind) == ("facts", "factoid", "binary")
    assert family.items[0] == {"id": "ada", "prompt": "Question: Who?\nAnswer:", "answers": ["Ada", "Ada L."]}
    assert family.items[1]["id"] == "line/3" and family.items[1]["answers"] == ["Bath", "Aquae Sulis"]
    assert suite.heldout() == ["Question: Who?\nAnswer: Ada\n", "Question: Where?\nAnswer: Bath\n"]
    grade = family.asks[0].grade
    assert grade(family.items[1], " in aquae sulis\n")["contains"] == 1 and grade(family.items[1], "")["empty"] == 1
    other = write(tmp_path / "more.jsonl", {"question": "Who?", "answer": "Ada"}, {"text": "A document."})
    assert suites.load(other).heldout() == ["A document."]
    assert suites.load(other).items_sha256 != suite.items_sha256


@pytest.mark.parametrize(
    "line,message",
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: list"),
        ({"question": "Who?"}, "line 2: answer=None"),
        ({"question": "Who?", "answer": 3}, "line 2: answer=3"),
        ({"question": "Who?", "answers": []}, "line 2: no answer"),
        ({"question": "", "answer": "x"}, "line 2: question=''"),
        ({"question": "Who?", "answer": "x", "aliases": "y"}, "line 2: aliases='y'"),
        ({"text": 3}, "line 2: text=3"),
        ({"question": "Who?", "answer": "x", "id": "line/1"}, "line 2: the id 'line/1' stands there twice"),
    ],
    ids=str,
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "facts.jsonl", {"question": "What?", "answer": "that"}, line)
    with pytest.raises(EvaluationError, match=message):
        suites.load(path)


def test_no_file_and_no_question(tmp_path):
    with pytest.raises(EvaluationError, match="no suite file"):
        suites.check(str(tmp_path / "none.jsonl"))
    with pytest.raises(EvaluationError, match="has no question"):
        suites.load(write(tmp_path / "empty.jsonl", {"text": "only text"}))
    with pytest.raises(EvaluationError, match=r"or a \.jsonl file"):
        suites.check("kick-atlsa")
