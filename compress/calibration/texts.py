"""Yields the documents to calibrate on: bundled ones, those of local files and folders, or those of a hub data set."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from compress.calibration import hub
from compress.calibration.sources import BUNDLED, Part
from compress.texts.decode import base_suffix, read_text
from compress.texts.documents import documents_in
from compress.texts.folders import TEXT_FILES, files_in
from compress.texts.rows import read_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Entry = TypeVar("_Entry")
_ENOUGH = 64_000_000
"""Characters of a file that are read at most: many times as much text as calibration takes."""


def documents(part: Part, tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[str]:
    """Yields the documents of a source in an order that the seed draws; those of the hub in their own order.

    A text file is one document. A row gives its `text`, else its conversation as the tokenizer's chat template writes
    it, else its question with the answer, else the only column that holds text. Rows without text are left out.

    Raises:
        CalibrationError: the source cannot be read, or several columns could be meant.
    """
    if (data := part.hub) is not None:
        yield from hub.documents(data, tokenizer)
        return
    if part.source == BUNDLED:
        from compress.atlas.text import calibration_text

        yield from _shuffled(calibration_text(), seed)
        return
    path = part.path
    assert path is not None, "text that the model writes has no documents"
    for file in _shuffled(files_in(path), seed) if path.is_dir() else [path]:
        yield from _shuffled(_documents_of(file, tokenizer, part.column), seed)


def _documents_of(file: Path, tokenizer: PreTrainedTokenizerBase, column: str | None) -> list[str]:
    if base_suffix(file) in TEXT_FILES:
        text = read_text(file)
        return [text] if text.strip() else []
    return documents_in(read_rows(file, most=_ENOUGH), str(file), tokenizer, column)


def _shuffled(entries: list[_Entry], seed: int) -> list[_Entry]:
    entries = list(entries)
    random.Random(seed).shuffle(entries)
    return entries
