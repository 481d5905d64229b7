"""Damaged JSON is an error with the file's name, whatever the damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.errors import FormatError, ModelError
from compress.json_files import parse, read_object

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"{", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"\xef\xbb\xbf{}", "cannot be read"),
        (DEEP.encode(), "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[1]", "holds a list. Allowed: a JSON object"),
        (b"null", "holds null"),
        (b'{"a": ["\\ud800"]}', "no text in any encoding"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message) as caught:
        read_object(path)
    assert "some.json" in str(caught.value)


def test_the_callers_error_and_cure(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.json is missing\. Download it again\."):
        read_object(tmp_path / "no.json", error=ModelError, do="Download it again")
    with pytest.raises(ModelError, match="cannot be read"):
        (tmp_path / "folder.json").mkdir()
        read_object(tmp_path / "folder.json", error=ModelError)


def test_what_is_well_formed_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, "ä", "\\ud83d\\ude00"]}', encoding="utf-8")
    assert read_object(tmp_path / "a.json") == {"a": [1, "ä", "\U0001f600"]}


def test_deep_nesting_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse(DEEP)
