"""Texts kept between runs: found again, made again when they are damaged, whole whoever writes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from compress import kept_files
from compress.atlas import text

TEXTS = ["one\n", "two\u2028 \ud83d", ""]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    return tmp_path


def test_texts_are_found_under_their_key() -> None:
    assert kept_files.read_texts("texts", "key") is None
    kept_files.keep_texts("texts", "key", TEXTS)
    assert kept_files.read_texts("texts", "key") == TEXTS
    assert kept_files.read_texts("texts", "another") is None and kept_files.read_texts("other", "key") is None


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data + b"x", lambda d: b"\xff"]
)
def test_a_damaged_file_is_none(own_folder: Path, damage: object) -> None:
    kept_files.keep_texts("texts", "key", TEXTS)
    (path,) = (own_folder / "texts").iterdir()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert kept_files.read_texts("texts", "key") is None


def test_a_folder_that_cannot_be_written_keeps_nothing(own_folder: Path) -> None:
    (own_folder / "texts").write_text("a file in its place")
    kept_files.keep_texts("texts", "key", TEXTS)
    assert kept_files.read_texts("texts", "key") is None


def test_many_writers_leave_one_whole_file(own_folder: Path) -> None:
    texts = [str(number) * 1000 for number in range(200)]
    writers = [threading.Thread(target=kept_files.keep_texts, args=("texts", "key", texts)) for _ in range(8)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert kept_files.read_texts("texts", "key") in (None, texts)
    assert kept_files.read_texts("texts", "key") == texts
    assert len(list((own_folder / "texts").iterdir())) == 1


def test_documents_of_atlas_are_made_once_and_stay_the_same(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = text._made("heldout-x", "heldout", 2000)
    text._first.cache_clear()
    assert text._first("heldout-x", "heldout", 2000) == tuple(made)
    text._first.cache_clear()
    monkeypatch.setattr(text, "_made", lambda *_: pytest.fail("made again"))
    assert text._first("heldout-x", "heldout", 2000) == tuple(made)
    text._first.cache_clear()
