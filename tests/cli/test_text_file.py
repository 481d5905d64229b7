"""Files that commands are asked to write: made with their folder, or one error."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.cli.shared.text_file import write_text
from compress.errors import OutputError


def test_the_folder_is_made(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "eval.json", "{}\n")
    assert (tmp_path / "new" / "eval.json").read_text(encoding="utf-8") == "{}\n"


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path / "file" / "eval.json", tmp_path):
        with pytest.raises(OutputError, match="cannot be written"):
            write_text(path, "{}\n")
