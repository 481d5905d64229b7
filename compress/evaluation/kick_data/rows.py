"""Reads and checks the rows of public datasets, from a folder of .jsonl files or from the hub.

A row has `id` and the dataset's fields in `FIELDS`. FreebaseQA may also be in its published form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import EvaluationError, counted, in_words
from compress.evaluation.kick_data import hub
from compress.evaluation.matching import can_match
from compress.json_files import parse
from compress.texts.decode import read_text
from compress.texts.rows import Rows, read_rows

Row = dict[str, Any]
_QUESTION: dict[str, type] = {"question": str, "aliases": list}
_CHOICE: dict[str, type] = {"query": str, "choices": list, "answer": int}
_NAMES: dict[type, str] = {str: "a text", int: "an integer", list: "a list"}
FIELDS: dict[str, dict[str, type]] = {
    "freebaseqa": _QUESTION,
    "webquestions_test": _QUESTION,
    "triviaqa_closed": _QUESTION,
    "mmlu_dev": {"subject": str, "question": str, "choices": list, "answer": int},
    "mmlu_test": {"subject": str, "question": str, "choices": list, "answer": int},
    "arc_challenge": _CHOICE,
    "arc_easy": _CHOICE,
    "boolq": _CHOICE,
    "openbook_qa": _CHOICE,
    "piqa": _CHOICE,
    "winogrande": {"contexts": list, "continuation": str, "answer": int},
    "nq_open_oracle": {**_QUESTION, "passage": str},
    "cnn_dailymail": {"article": str, "highlights": str},
    "mt_bench": {"turns": list},
    "wikitext2_test": {"text": str},
}
_FREEBASEQA = "FreebaseQA-eval.json"


@dataclass
class Data:
    """The datasets in a folder, or on the hub if `folder` is None."""

    folder: Path | None
    sources: dict[str, str] = field(default_factory=dict)
    """File, or hub id and revision, by dataset; filled as datasets are read."""
    lacking: list[str] = field(default_factory=list)
    """Names of requested datasets that are missing."""

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.is_dir():
            raise EvaluationError(
                f"--data-dir {self.folder}: there is no such folder", do="Correct it, or leave it out to use the hub"
            )

    def rows(self, name: str) -> list[Row]:
        """Returns the rows of a dataset, [] if it is missing; EvaluationError for a row with wrong fields."""
        if self.folder is None:
            return self._of_hub(name)
        path = self.folder / f"{name}.jsonl"
        if path.is_file():
            self.sources[name] = path.name
            return _checked(name, str(path), read_rows(path))
        if name == "freebaseqa" and (path := self.folder / _FREEBASEQA).is_file():
            self.sources[name] = path.name
            return _checked(name, str(path), _read_freebaseqa(path))
        self.lacking.append(name)
        return []

    def text(self, name: str) -> str | None:
        """Returns the content of the text file `name` of the folder; None if there is no such file."""
        path = self.folder / name if self.folder is not None else None
        if path is None or not path.is_file():
            return None
        self.sources[Path(name).stem] = path.name
        return read_text(path)

    def _of_hub(self, name: str) -> list[Row]:
        if name not in hub.PLACES:
            self.lacking.append(name)
            return []
        place = hub.PLACES[name]
        self.sources[name] = str(place)
        return _checked(
            name, str(place), [(f"row {number}", row) for number, row in enumerate(hub.rows(place), start=1)]
        )


def _read_freebaseqa(path: Path) -> Rows:
    """Returns the rows of FreebaseQA's published form: questions with parses, each with the names of its answers."""
    try:
        rows: Rows = []
        for number, question in enumerate(parse(read_text(path))["Questions"], start=1):
            answers = [answer for meaning in question["Parses"] for answer in meaning["Answers"]]
            names = list(dict.fromkeys(name for answer in answers for name in answer["AnswersName"]))
            row = {"id": question["Question-ID"], "question": question["RawQuestion"], "aliases": names}
            rows.append((f"row {number}", row))
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{path} is not FreebaseQA in its published form: {in_words(error)}") from error
    return rows


def _checked(name: str, file: str, placed: Rows) -> list[Row]:
    if not placed:
        raise EvaluationError(f"{file} is empty", do="Fill it, or delete it")
    seen: set[str] = set()
    for place, row in placed:
        where = f"{file}, {place}"
        if not isinstance(row, dict) or "id" not in row:
            raise EvaluationError(f"{where}: not an object with an id")
        row["id"] = str(row["id"])
        if row["id"] in seen:
            raise EvaluationError(f"{where}: duplicate id {row['id']!r}", do="Give every row its own id")
        seen.add(row["id"])
        for key, kind in FIELDS[name].items():
            if not isinstance(row.get(key), kind) or (kind is not int and not row[key]):
                raise EvaluationError(f"{where}: {key}={row.get(key)!r}", allowed=_NAMES[kind])
        if "aliases" in FIELDS[name] and not any(isinstance(gold, str) and can_match(gold) for gold in row["aliases"]):
            raise EvaluationError(f"{where}: no answer can ever match {row['aliases']!r}", allowed="texts that show")
        options = row.get("choices", row.get("contexts"))
        if options is not None and not 0 <= row["answer"] < len(options):
            raise EvaluationError(
                f"{where}: answer={row['answer']}",
                allowed=f"0 to {len(options) - 1}: the place of the right one among {counted(len(options), 'choice')}",
            )
    return [row for _, row in placed]
