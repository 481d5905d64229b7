"""Reads a file of rows: JSON, JSON lines, CSV, TSV, Parquet or Arrow, as plain data with the place of every row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress.errors import TextError, need_package
from compress.json_files import parse
from compress.texts.decode import COMPRESSED, base_suffix, read_bytes, read_text, repaired

Rows = list[tuple[str, Any]]
"""Rows with their places (`line 3`, `row 3`); mostly dictionaries, the rows of a JSON file may be anything."""
_BATCH = 1024
"""Rows of a Parquet file that are decoded at once."""


def read_rows(path: Path, most: int | None = None) -> Rows:
    """Returns the rows of a file, in the order of the file; blank lines are no rows.

    Empty cells of a table are None. Lone surrogates in texts become U+FFFD.

    Args:
        path: the file.
        most: characters of text after which reading stops; None reads the whole file.

    Raises:
        TextError: the file cannot be read, or a line is not what its suffix says.
    """
    reader = _READERS.get(base_suffix(path))
    if reader is None:
        raise TextError(f"{path} is no file of rows", allowed=", ".join(ROW_FILES))
    rows: Rows = []
    for place, row in reader(path):
        rows.append((place, _repaired(row)))
        if most is not None and (most := most - _characters(row)) <= 0:
            break
    return rows


def _characters(value: Any) -> int:
    """The length of all texts in a row."""
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_characters, parts))


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Only line feeds end a line: texts may hold U+2028."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        line = line.removeprefix("\ufeff")  # files that were joined keep their marks
        if not line.strip():
            continue
        place = f"line {number}"
        yield place, _parsed(line, f"{path}, {place}")


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    """A list of rows, an object with one list of rows in it, columns by name, one row, or JSON lines after all."""
    text = read_text(path)
    if not text.strip():
        return
    try:
        value = parse(text)
    except ValueError:
        if _is_json_line(text.lstrip().partition("\n")[0]):
            yield from _json_lines(path)
            return
        value = _parsed(text, str(path))
    for number, row in enumerate(_rows_in(value), start=1):
        yield f"row {number}", row


def _is_json_line(line: str) -> bool:
    try:
        return isinstance(parse(line), dict | str)
    except ValueError:
        return False


def _parsed(text: str, place: str) -> Any:
    try:
        return parse(text)
    except json.JSONDecodeError as error:
        raise TextError(f"{place}: not JSON ({error.msg} at character {error.pos})") from error
    except ValueError as error:  # a number of many thousand digits; nesting without end
        raise TextError(f"{place}: not JSON that can be read ({error})") from error


def _rows_in(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        lists = [part for part in value.values() if isinstance(part, list)]
        of_rows = [part for part in lists if part and all(isinstance(row, dict) for row in part)]
        if len(of_rows) == 1 and not {"messages", "conversations"} & value.keys():
            return of_rows[0]
        columns = [part for part in lists if len(part) == len(lists[0])]
        if value and len(columns) == len(value) and not of_rows:
            return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]
    return [value]


def _table(delimiter: str) -> Callable[[Path], Iterator[tuple[str, Any]]]:
    def read(path: Path) -> Iterator[tuple[str, Any]]:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
        csv.field_size_limit(1 << 30)  # documents are longer than the usual 128 KiB
        try:
            _check_header(list(reader.fieldnames or []), path, delimiter)
            for row in reader:
                place = f"line {reader.line_num}"
                if None in row:
                    raise TextError(f"{path}, {place}: more cells than the header has columns")
                yield place, {name: cell or None for name, cell in row.items()}
        except csv.Error as error:
            raise TextError(f"{path}, line {reader.line_num}: not a table ({error})") from error

    return read


def _check_header(names: list[str], path: Path, delimiter: str) -> None:
    """Refuses a table whose cells would be lost or run together without a word."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise TextError(f"{path}, line 1: the column {twice!r} is repeated", do="Rename one of them")
    other = next((mark for mark in ",;\t" if len(names) == 1 and names[0].count(mark)), None)
    if other is not None:
        raise TextError(
            f"{path}, line 1: one column, {names[0]!r}, which {other!r} seems to separate",
            allowed=f"columns separated by {delimiter!r}",
            do="Save it with that separator; .csv files have commas, .tsv files tabs",
        )


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    need_package("pyarrow", str(path))
    from pyarrow import parquet

    with _arrow_errors(path):
        yield from _batches(parquet.ParquetFile(_arrow_input(path)).iter_batches(_BATCH))


def _arrow(path: Path) -> Iterator[tuple[str, Any]]:
    """A stream of record batches, as `datasets` writes it, or a file of them (Feather)."""
    need_package("pyarrow", str(path))
    from pyarrow import ArrowInvalid, ipc

    with _arrow_errors(path):
        try:
            reader = ipc.open_stream(_arrow_input(path))
        except ArrowInvalid:
            file = ipc.open_file(_arrow_input(path))
            yield from _batches(file.get_batch(number) for number in range(file.num_record_batches))
        else:
            yield from _batches(reader)


def _batches(batches: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    rows = (row for batch in batches for row in batch.to_pylist())
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def _arrow_input(path: Path) -> Any:
    """What pyarrow reads the file from; a large file that is not compressed is not read as a whole."""
    import pyarrow

    if path.suffix.lower() in COMPRESSED:
        return pyarrow.BufferReader(read_bytes(path))
    return pyarrow.memory_map(str(path))


@contextmanager
def _arrow_errors(path: Path) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise TextError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _repaired(value: Any) -> Any:
    if isinstance(value, str):
        return repaired(value)
    if isinstance(value, list):
        return [_repaired(part) for part in value]
    if isinstance(value, dict):
        return {_repaired(key): _repaired(part) for key, part in value.items()}
    return value


_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
ROW_FILES = tuple(_READERS)
"""Suffixes of the files that `read_rows` reads; each may be followed by the suffix of a compression."""
