"""Documents picked out of every form of rows."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from compress.errors import TextError
from compress.texts.documents import documents_in
from compress.texts.rows import read_rows
from tests.support.tokenizers import processed

ROWS = [{"text": "one two", "n": 1}, {"text": None, "n": 2}, {"n": 3}, {"text": " ", "n": 4}, {"text": 'three, "3"'}]
WANTED = ["one two", 'three, "3"']
CHATS = [
    {"messages": [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "w7"}]}, {"role": "assistant"}]},
    {"messages": None},
]


def read(path: Path, data: bytes | str, **options: Any) -> list[str]:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return documents_in(read_rows(path), path.name, **options)


def lines(rows: list[Any]) -> str:
    return "\n".join(map(json.dumps, rows))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", lines(ROWS)),
        ("a.jsonl", "\ufeff" + lines(ROWS[:2]) + "\r\n\n\ufeff" + lines(ROWS[2:])),
        ("a.jsonl.gz", gzip.compress(lines(ROWS).encode(), mtime=0)),
        ("a.jsonl.bz2", bz2.compress(lines(ROWS).encode())),
        ("a.jsonl.xz", lzma.compress(lines(ROWS).encode())),
        ("a.ndjson", lines(WANTED)),
        ("a.json", json.dumps(ROWS, indent=1)),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
        ("a.json", json.dumps({"text": WANTED, "n": [1, 2]})),
        ("a.json", lines(ROWS)),
        ("a.csv", 'n,text\r\n1,one two\r\n2,\r\n3,"three, ""3"""\r\n'),
        ("a.tsv", 'text\tn\none two\t1\n"three, ""3"""\t2\n'),
    ],
)
def test_every_form_gives_the_same_documents(tmp_path: Path, name: str, data: bytes | str) -> None:
    assert read(tmp_path / name, data) == WANTED


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert documents_in(read_rows(tmp_path / "a.parquet"), "a.parquet") == WANTED
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(TextError, match=r"b\.parquet cannot be read"):
        read_rows(tmp_path / "b.parquet")


@pytest.mark.parametrize("form", ["stream", "file"])
def test_arrow(tmp_path: Path, form: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(ROWS)
    new = pyarrow.ipc.new_stream if form == "stream" else pyarrow.ipc.new_file
    with new(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    assert documents_in(read_rows(tmp_path / "a.arrow"), "a.arrow") == WANTED
    (tmp_path / "a.jsonl.zst").write_bytes(pyarrow.compress(lines(ROWS).encode(), "zstd", asbytes=True))
    assert documents_in(read_rows(tmp_path / "a.jsonl.zst"), "a") == WANTED
    for name in ("b.arrow", "b.jsonl.zst", "b.jsonl.bz2", "b.jsonl.xz", "missing.arrow"):
        if not name.startswith("missing"):
            (tmp_path / name).write_bytes(b"no")
        with pytest.raises(TextError, match=f"{name} cannot be read"):
            read_rows(tmp_path / name)


def test_reading_stops_when_there_is_enough(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines([{"text": "x" * 10, "more": ["y" * 10]}] * 50))
    assert len(read_rows(tmp_path / "a.jsonl", most=55)) == 3 and len(read_rows(tmp_path / "a.jsonl")) == 50


def test_half_an_emoji_is_replaced(tmp_path: Path) -> None:
    (text,) = read(tmp_path / "a.jsonl", '{"text": "cut \\ud83d off"}')
    assert text == "cut � off" and text.encode()


def test_the_only_column_of_text_is_taken_and_others_are_named(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": f"x{n}", "lang": "en", "content": f"one {n}"} for n in range(3)]
    assert read(tmp_path / "a.jsonl", lines(rows)) == ["one 0", "one 1", "one 2"]
    rows = [{**row, "title": "two words"} for row in rows]
    with pytest.raises(TextError, match=r"several of its fields hold text: content, title.*a\.jsonl:content"):
        read(tmp_path / "a.jsonl", lines(rows))
    assert read(tmp_path / "a.jsonl", lines(rows), column="title") == ["two words"] * 3
    with pytest.raises(TextError, match=r"no column 'contents'; did you mean 'content'"):
        read(tmp_path / "a.jsonl", lines(rows), column="contents")
    with pytest.raises(TextError, match="line 1 has no field text; its fields are id, lang"):
        read(tmp_path / "a.jsonl", lines([{"id": "x", "lang": "en"}]))


def test_conversations_by_the_template_and_without_one(tmp_path: Path) -> None:
    tokenizer = processed("<bos> $A")
    plain = ["User: w5\nAssistant: w6\n", "User: w7\nAssistant:\n"]
    assert read(tmp_path / "a.jsonl", lines(CHATS), tokenizer=tokenizer) == plain
    shared = [{"conversations": [{"from": "human", "value": "w5"}, {"from": "gpt", "value": "w6"}]}]
    assert read(tmp_path / "a.jsonl", lines(shared), tokenizer=tokenizer) == plain[:1]
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert read(tmp_path / "a.jsonl", lines(CHATS), tokenizer=tokenizer) == [
        "<user>w5<assistant>w6",
        "<user>w7<assistant>",
    ]
    tokenizer.chat_template = "{{ raise_exception('no two in a row') }}"
    with pytest.raises(TextError, match="does not take a conversation of user, assistant: no two in a row"):
        read(tmp_path / "a.jsonl", lines(CHATS), tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{oops}', r"line 2: not JSON \(.* at character 1\)"),
        ("a.jsonl", "[" * 200_000, "line 1: not JSON"),
        ("a.jsonl", '{"text": 7}', r"line 1: text='7'"),
        ("a.jsonl", '{"messages": "hi"}\n{"messages": [7]}', "line 2: a chat holds '7'"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": 7}]}', "line 1: a chat holds"),
        ("a.json", "{", "not JSON"),
        ("a.csv", "text\na,b\n", "line 2: more cells than the header"),
        ("a.csv", 'text\n"a', "not a table"),
        ("a.doc", "x", "no file of rows"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, name: str, data: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        read(tmp_path / name, data, tokenizer=processed("$A"))


def test_conversations_in_any_column(tmp_path: Path) -> None:
    rows = [{"chosen": chat["messages"], "rejected": chat["messages"]} for chat in CHATS[:1]]
    wanted = read(tmp_path / "a.jsonl", lines(CHATS[:1]), tokenizer=processed("$A"))
    assert read(tmp_path / "b.jsonl", lines(rows), tokenizer=processed("$A"), column="chosen") == wanted
    empty = [*CHATS[:1], {"messages": []}]
    assert read(tmp_path / "c.jsonl", lines(empty), tokenizer=processed("$A")) == wanted


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "text,text\none two,three four\n", "line 1: the column 'text' is repeated"),
        ("a.csv", "id;text\n1;one two\n", "line 1: one column, 'id;text', which ';' seems to separate"),
        ("a.tsv", "id,text\n1,one two\n", "seems to separate"),
    ],
)
def test_a_table_that_would_lose_cells_is_refused(tmp_path: Path, name: str, data: str, message: str) -> None:
    with pytest.raises(TextError, match=message):
        read(tmp_path / name, data)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"instruction": "w5", "input": "w6", "output": "w7"}, "User: w5\n\nw6\nAssistant: w7\n"),
        ({"instruction": "w5", "input": "", "response": "w7"}, "User: w5\nAssistant: w7\n"),
        ({"prompt": "w5", "completion": "w7", "source": "a b c"}, "User: w5\nAssistant: w7\n"),
        ({"text": "w4", "question": "w5", "answer": "w7"}, "w4"),
    ],
)
def test_a_question_with_its_answer_is_a_conversation(tmp_path: Path, row: dict[str, str], wanted: str) -> None:
    blank = {name: " " for name in row}
    assert read(tmp_path / "a.jsonl", lines([row, blank]), tokenizer=processed("$A")) == [wanted]
    column = next(iter(row))
    assert read(tmp_path / "a.jsonl", lines([row, blank]), tokenizer=processed("$A"), column=column) == [row[column]]


def test_a_conversation_of_blank_messages_is_left_out(tmp_path: Path) -> None:
    blank = {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": None}]}
    assert read(tmp_path / "a.jsonl", lines([blank, *CHATS[:1]]), tokenizer=processed("$A")) == [
        "User: w5\nAssistant: w6\n"
    ]
    assert read(tmp_path / "b.jsonl", lines([blank]), tokenizer=processed("$A")) == []


def test_a_template_without_a_system_role_gets_it_in_the_users_message(tmp_path: Path) -> None:
    tokenizer = processed("$A")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    messages = [{"role": "system", "content": "w4"}, *CHATS[0]["messages"]]  # type: ignore[misc]
    text = read(tmp_path / "a.jsonl", lines([{"messages": messages}]), tokenizer=tokenizer)
    assert text == ["<user>w4\n\nw5<assistant>w6"]
    with pytest.raises(TextError, match=r"a\.jsonl line 2: the model's chat template .* system"):
        alone = [{"messages": messages[1:]}, {"messages": messages[:1]}]
        read(tmp_path / "a.jsonl", lines(alone), tokenizer=tokenizer)


def test_a_missing_file_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"a\.jsonl cannot be read: No such file or directory"):
        read_rows(tmp_path / "a.jsonl")
