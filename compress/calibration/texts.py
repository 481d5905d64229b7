"""Loads the documents to calibrate on: bundled, from a local file, or from a data set on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CalibrationError
from compress.texts.chat import CHAT_FIELDS
from compress.texts.decode import base_suffix, read_text
from compress.texts.documents import TEXT, chosen_column, documents_in
from compress.texts.rows import ROW_FILES, read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT_FILES = (".txt", ".md")
"""Suffixes of files that are one document each."""
_SOURCES = (
    f"bundled, a text file ({', '.join(TEXT_FILES)}), rows of text ({', '.join(ROW_FILES)}; FILE:COLUMN), "
    "each also as .gz, a token file (.safetensors), hub:NAME[:SPLIT[:COLUMN]]"
)
_GLANCED = 64  # rows of a data set from which the column is chosen


def documents(source: str, tokenizer: PreTrainedTokenizerBase | None = None) -> list[str]:
    """Returns the documents of `bundled`, a text file (one), a file of rows, or a data set on the hub.

    A row gives its `text`, else its conversation (`messages`, `conversations`) as the tokenizer's chat template writes
    it, else the only column that holds text. Rows without text are left out.

    Raises:
        CalibrationError: there is no such source, it holds no text, or several columns could be meant.
    """
    if source == "bundled":
        from compress.atlas.text import calibration_text

        return calibration_text()
    if source.startswith("hub:"):
        return _not_empty(source, _hub(source, tokenizer))
    path, column = _file(source)
    if base_suffix(path) in TEXT_FILES and column is None:
        return _not_empty(source, [read_text(path)])
    if base_suffix(path) not in ROW_FILES:
        raise CalibrationError(f"calibration source {source!r}", allowed=_SOURCES)
    return _not_empty(source, documents_in(read_rows(path), str(path), tokenizer, column))


def _file(source: str) -> tuple[Path, str | None]:
    """The path, and the column that may follow it after a colon."""
    name, colon, column = source.rpartition(":")
    if colon and base_suffix(Path(name)) in ROW_FILES and not Path(source).exists():
        return Path(name).expanduser(), column
    return Path(source).expanduser(), None


def _hub(source: str, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    name, *rest = source.removeprefix("hub:").split(":")
    if not name or len(rest) > 2:
        raise CalibrationError(f"calibration source {source!r}", allowed="hub:NAME[:SPLIT[:COLUMN]]")
    split = rest[0] if rest and rest[0] else "train"
    column = rest[1] if len(rest) == 2 and rest[1] else None
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        data = load_dataset(name, split=split)
    except (DatasetsError, OSError, ValueError) as error:
        first_line = str(error).strip().partition("\n")[0]
        raise CalibrationError(
            f"data set {name}, split {split}, cannot be loaded: {first_line}",
            do="Check name and split, or use --calibration bundled or a local file",
        ) from error
    where = f"data set {name}"
    return documents_in(_rows_of(data, column, where), where, tokenizer, column)


def _rows_of(data: Any, column: str | None, where: str) -> list[tuple[str, dict[str, Any]]]:
    """The rows with the one column that is read, chosen from the first rows when it is not given."""
    names = list(data.column_names)
    if column is None:
        column = next((name for name in (TEXT, *CHAT_FIELDS) if name in names), None)
    if column is not None and column in names:
        return [(f"row {number}", {column: value}) for number, value in enumerate(data[column], start=1)]
    if column is not None:
        return [("row 1", dict.fromkeys(names))]
    glanced = data.select(range(min(_GLANCED, len(data)))).to_list()
    column = chosen_column(None, [(f"row {number}", row) for number, row in enumerate(glanced, start=1)], where)
    return _rows_of(data, column, where)


def _not_empty(source: str, texts: list[str]) -> list[str]:
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise CalibrationError(f"calibration source {source} holds no text")
    return texts
