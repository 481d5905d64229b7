"""Streams the rows of a data set on the Hugging Face hub: only as many as are asked for are downloaded."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from compress.calibration.presets import HubData
from compress.errors import CalibrationError, need_package, translated
from compress.texts.documents import TEXT, documents_in, text_column

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 64
"""Rows that are turned into documents at once. The column is chosen from the first ones."""
_BLANK_ROWS = 20_000
"""Rows without text after which a stream is given up."""
_ANSWER_SECONDS = 15
"""How long the hub may take to answer before it counts as out of reach."""
_TITLE = re.compile(r" = [^=].* = \n?")
_CURE = "Check the name and the network; or use --calibration self (text that the model writes) or a local file"


def resolved(data: HubData) -> HubData:
    """Returns the data set with the commit that its revision, or its newest state, stands for.

    In offline mode the data set is returned as it is: it may be in the local cache.

    Raises:
        CalibrationError: the hub cannot be reached within seconds, or has no such data set or revision.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return data
    with translated(f"hub:{data.name} cannot be loaded", kind=CalibrationError, do=_CURE):
        info = HfApi().dataset_info(data.name, revision=data.revision, timeout=_ANSWER_SECONDS)
    return dataclasses.replace(data, revision=info.sha)


def documents(data: HubData, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yields the documents of a data set in its order; conversations by the tokenizer's chat template.

    Raises:
        CalibrationError: it cannot be loaded, has no such column, or its first rows hold no text.
    """
    where = f"hub:{data.name}{f'@{data.config}' if data.config else ''}:{data.split}"
    rows = _rows(data, where)
    if data.articles:
        rows = _joined(rows, data.column or TEXT)
    blank, column = 0, data.column
    for number, batch in _batches(rows):
        places = [(f"row {number + place}", row) for place, row in enumerate(batch, start=1)]
        if number == 0 and column is None:
            column = text_column(places, where)
        texts = documents_in(places, where, tokenizer, column)
        blank = 0 if texts else blank + len(batch)
        if blank >= _BLANK_ROWS:
            break
        yield from texts


def _rows(data: HubData, where: str) -> Iterator[dict[str, Any]]:
    """The rows as they arrive, with the needed column alone where it is known."""
    need_package("datasets", where)
    from datasets import load_dataset

    label = f"{where} cannot be loaded"
    with translated(label, kind=CalibrationError, do=_CURE):
        rows: Iterator[dict[str, Any]] = iter(
            load_dataset(data.name, data.config, split=data.split, revision=data.revision, streaming=True)
        )
    while True:
        with translated(label, kind=CalibrationError, do=_CURE):  # rows are downloaded as they are asked for
            row = next(rows, None)
        if row is None:
            return
        yield row if data.column is None or data.column not in row else {data.column: row[data.column]}


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Batches of rows with the number of rows before each."""
    rows, number = iter(rows), 0
    while batch := list(islice(rows, _BATCH)):
        yield number, batch
        number += len(batch)


def _joined(rows: Iterator[dict[str, Any]], column: str) -> Iterator[dict[str, Any]]:
    """Joins rows that are lines of articles; a line that is a title begins the next article."""
    lines: list[str] = []
    for row in chain(rows, [{column: None}]):
        line = row.get(column)
        if lines and (line is None or _TITLE.fullmatch(line)):
            yield {column: "".join(lines)}
            lines = []
        lines += [] if line is None else [line]
