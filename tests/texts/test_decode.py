"""Text files in the encodings that people have them in."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import pytest

from compress.errors import TextError
from compress.texts.decode import base_suffix, read_text, repaired

TEXT = "Zoë says:\n„héllo“ 🐍\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
    ],
)
def test_every_encoding_and_line_end_gives_the_same_text(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    assert read_text(tmp_path / "a.txt") == TEXT == read_text(tmp_path / "a.txt.gz")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"caf\xe9", r"not UTF-8 text \(.* at byte 3\)\. .*Save it as UTF-8"),
        ("a.txt", "Zoe".encode("utf-16-le"), "holds NUL characters"),
        ("a.txt.gz", b"plain", "cannot be read"),
        ("a.txt.gz", gzip.compress(b"cut off" * 99, mtime=0)[:-9], "cannot be read"),
        ("none.txt", None, "cannot be read"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, name: str, data: bytes | None, message: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(TextError, match=message):
        read_text(tmp_path / name)


def test_surrogates() -> None:
    assert repaired("cut \ud83d off") == "cut � off"
    assert repaired("\udc0d and \ud83d\udc0d") == "� and 🐍"
    assert repaired(TEXT) == TEXT


def test_suffixes() -> None:
    names = ("a.JSONL.gz", "b.c.txt", "noise", "d.gz")
    assert [base_suffix(Path(name)) for name in names] == [".jsonl", ".txt", "", ""]
