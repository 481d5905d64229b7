"""A suite from a file of questions."""

import gzip
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
        ({"question": "Who?"}, "line 2: the row has no answer"),
        ({"question": "Who?", "answer": 3}, "line 2: answer=3"),
        ({"question": "Who?", "answers": []}, "line 2: the list of answers is empty"),
        ({"question": "", "answer": "x"}, "line 2: question=''"),
        ({"question": "Who?", "answer": "x", "aliases": "y"}, "line 2: aliases='y'"),
        ({"text": 3}, "line 2: text=3"),
        ({"question": "Who?", "answer": "x", "id": "line/1"}, "line 2: duplicate id 'line/1'"),
    ],
    ids=str,
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = write(tmp_path / "facts.jsonl", {"question": "What?", "answer": "that"}, line)
    with pytest.raises(EvaluationError, match=message):
        suites.load(path)


def test_no_file_and_no_question(tmp_path):
    with pytest.raises(EvaluationError, match="there is no file of questions"):
        suites.check(str(tmp_path / "none.jsonl"))
    with pytest.raises(EvaluationError, match="has no question"):
        suites.load(write(tmp_path / "empty.jsonl", {"text": "only text"}))
    with pytest.raises(EvaluationError, match=r"or a \.jsonl file"):
        suites.check("kick-atlsa")


def test_rows_as_people_have_them(tmp_path):
    path = tmp_path / "facts.csv"
    path.write_bytes("\ufeffquestion,answer,aliases\r\nWho?,Ada,Ada L.\r\n,,\r\nWhere?,Bath,\r\n".encode())
    items = suites.load(str(path)).families[0].items
    assert [item["answers"] for item in items] == [["Ada", "Ada L."], ["Bath"]]
    path = tmp_path / "facts.jsonl.gz"
    rows = [
        {"question": "Who?", "answer": "Ada", "aliases": None, "id": None, "text": None},
        {"question": "Which \ud83d?", "answer": "🐍"},
        {"text": None},
    ]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode("utf-16")))
    suite = suites.load(str(path))
    assert suite.name == "facts" and suite.items_sha256
    first, second = suite.families[0].items
    assert first["id"] == "line/1" and "�" in second["prompt"]
    assert suite.families[0].asks[0].grade(second, " 🐍!\n")["contains"] == 1


def test_questions_in_a_conversation(tmp_path):
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"}]
    path = write(
        tmp_path / "chats.jsonl",
        {"messages": [*chat, {"role": "assistant", "content": "Ada"}]},
        {"conversations": [{"from": "human", "value": "Where?"}], "answer": "Bath"},
        {"question": "What?", "answer": "that"},
    )
    (family,) = suites.load(path).families
    assert [item["answers"] for item in family.items] == [["Ada"], ["Bath"], ["that"]]
    asked = [family.prepare(item, {}, lambda messages: str(messages))["prompt"] for item in family.items]
    assert asked == [str(chat), str([{"role": "user", "content": "Where?"}]), "Question: What?\nAnswer:"]
    with pytest.raises(EvaluationError, match="line 1: a conversation without a question"):
        suites.load(write(tmp_path / "none.jsonl", {"messages": chat[:1], "answer": "x"}))


def test_other_columns_are_named_and_answers_that_cannot_match_are_refused(tmp_path):
    path = write(tmp_path / "other.jsonl", {"prompt": "Who?", "completion": "Ada"})
    with pytest.raises(EvaluationError, match=r"line 1: the row has no question.*the row has prompt, completion"):
        suites.load(path)
    path = write(tmp_path / "blank.jsonl", {"question": "Who?", "answer": "\u200b"})
    with pytest.raises(EvaluationError, match="line 1: no answer can ever match"):
        suites.load(path)


def test_null_rows_are_left_out_and_a_tool_may_ask(tmp_path):
    chat = [{"role": "user", "content": "Sum?"}, {"role": "assistant"}, {"role": "tool", "content": "42"}]
    answered = [*chat, {"role": "assistant", "content": "It is 42"}]
    (family,) = suites.load(write(tmp_path / "a.jsonl", "null", {"messages": answered})).families
    (item,) = family.items
    assert item["answers"] == ["It is 42"] and [m["role"] for m in item["messages"]] == ["user", "assistant", "tool"]
    with pytest.raises(EvaluationError, match="line 1: list"):
        suites.load(write(tmp_path / "b.jsonl", ["Sum?"]))
