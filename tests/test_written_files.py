"""Files that commands are asked to write: made with their folder, or one error."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.errors import OutputError
from compress.json_files import write_text


def test_the_folder_is_made(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "eval.json", "{}\n")
    assert (tmp_path / "new" / "eval.json").read_text(encoding="utf-8") == "{}\n"


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file" / "eval.json", tmp_path):
        with pytest.raises(OutputError, match="cannot be written"):
            write_text(path, "{}\n")


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "eval.json"
    write_text(path, "old")

    def stopped(self: Path, text: str, encoding: str) -> None:
        self.write_bytes(text[:1].encode())
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_bytes() == b"old" and [each.name for each in tmp_path.iterdir()] == ["eval.json"]


def test_a_device_is_written_to_as_it_is() -> None:
    write_text("/dev/null", "text")
    assert Path("/dev/null").is_char_device()
