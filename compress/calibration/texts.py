"""Documents to calibrate on, from wherever the recipe says."""

from __future__ import annotations

from pathlib import Path

from compress.errors import CalibrationError
from compress.json_files import parse

TEXT_FILES = (".txt", ".md", ".jsonl")


def documents(source: str) -> list[str]:
    """Returns the documents of `bundled`, a text file (one), a .jsonl file (its `text` fields) or a hub data set.

    Raises:
        CalibrationError: there is no such source, or it holds no text.
    """
    if source == "bundled":
        from compress.atlas.text import calibration_text

        return calibration_text()
    if source.startswith("hub:"):
        return _hub(source)
    path = Path(source).expanduser()
    if path.suffix not in TEXT_FILES:
        raise CalibrationError(
            f"calibration source {source!r}",
            allowed="bundled, a text file (.txt, .md, .jsonl), a token file (.safetensors), hub:NAME[:SPLIT[:COLUMN]]",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"calibration file {source} cannot be read: {error}", allowed="UTF-8 text") from error
    found = _json_lines(source, text) if path.suffix == ".jsonl" else [text]
    return _not_empty(source, found)


def _json_lines(source: str, text: str) -> list[str]:
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = parse(line)
        except ValueError as error:
            raise CalibrationError(f"{source} line {number} is not JSON: {error}") from error
        if not isinstance(value, dict) or not isinstance(value.get("text"), str):
            raise CalibrationError(f"{source} line {number} has no field text", allowed='lines like {"text": "…"}')
        found.append(value["text"])
    return found


def _hub(source: str) -> list[str]:
    name, *rest = source.removeprefix("hub:").split(":")
    if not name or len(rest) > 2:
        raise CalibrationError(f"calibration source {source!r}", allowed="hub:NAME[:SPLIT[:COLUMN]]")
    split = rest[0] if rest and rest[0] else "train"
    column = rest[1] if len(rest) == 2 and rest[1] else "text"
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
    if column not in data.column_names:
        raise CalibrationError(f"data set {name} has no column {column!r}", allowed=", ".join(data.column_names))
    return _not_empty(source, [text for text in data[column] if isinstance(text, str)])


def _not_empty(source: str, found: list[str]) -> list[str]:
    found = [text for text in found if text.strip()]
    if not found:
        raise CalibrationError(f"calibration source {source} holds no text")
    return found
