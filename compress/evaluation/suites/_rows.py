"""The rows of public datasets, from a folder of .jsonl files or from the hub, checked before anything is asked.

A row has `id` and, by dataset, the fields of `FIELDS`. FreebaseQA may also lie there as it is published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import EvaluationError
from compress.evaluation.suites import _hub
from compress.json_files import parse

Row = dict[str, Any]
_QUESTION: dict[str, type] = {"question": str, "aliases": list}
_CHOICE: dict[str, type] = {"query": str, "choices": list, "answer": int}
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
    """The datasets of a folder, or of the hub when there is none."""

    folder: Path | None
    sources: dict[str, str] = field(default_factory=dict)
    """Dataset -> file, or hub id and revision; filled as they are read."""
    lacking: list[str] = field(default_factory=list)
    """Datasets that were asked for and are not there."""

    def __post_init__(self) -> None:
        if self.folder is not None and not self.folder.is_dir():
            raise EvaluationError(f"--data-dir {self.folder}: no such folder")

    def rows(self, name: str) -> list[Row]:
        """Returns the rows of a dataset, none when it is lacking; EvaluationError for one that is not as documented."""
        if self.folder is None:
            return self._of_hub(name)
        path = self.folder / f"{name}.jsonl"
        if path.is_file():
            self.sources[name] = path.name
            return _checked(name, str(path), _read_jsonl(path))
        if name == "freebaseqa" and (path := self.folder / _FREEBASEQA).is_file():
            self.sources[name] = path.name
            return _checked(name, str(path), _read_freebaseqa(path))
        self.lacking.append(name)
        return []

    def text(self, name: str) -> str | None:
        """Returns the text file `name` of the folder, None when it is not there."""
        path = self.folder / name if self.folder is not None else None
        if path is None or not path.is_file():
            return None
        self.sources[Path(name).stem] = path.name
        return path.read_text(encoding="utf-8")

    def _of_hub(self, name: str) -> list[Row]:
        if name not in _hub.PLACES:
            self.lacking.append(name)
            return []
        place = _hub.PLACES[name]
        self.sources[name] = str(place)
        return _checked(name, str(place), list(enumerate(_hub.rows(place), start=1)))


def _read_jsonl(path: Path) -> list[tuple[int, Any]]:
    """Rows with their line numbers. Only line feeds end a line: some texts hold U+2028."""
    made = []
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    made.append((number, parse(line)))
                except ValueError as error:
                    raise EvaluationError(f"{path}, line {number}: not JSON ({error})") from error
    return made


def _read_freebaseqa(path: Path) -> list[tuple[int, Row]]:
    """The published form: questions with parses, each with the names of the answers."""
    try:
        questions = parse(path.read_text(encoding="utf-8"))["Questions"]
        made = []
        for number, question in enumerate(questions, start=1):
            answers = [answer for parse in question["Parses"] for answer in parse["Answers"]]
            names = list(dict.fromkeys(name for answer in answers for name in answer["AnswersName"]))
            row = {"id": question["Question-ID"], "question": question["RawQuestion"], "aliases": names}
            made.append((number, row))
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{path} is not FreebaseQA as it is published: {error!r}") from error
    return made


def _checked(name: str, where: str, numbered: list[tuple[int, Any]]) -> list[Row]:
    if not numbered:
        raise EvaluationError(f"{where} is empty", do="Fill it, or take it away")
    seen: set[str] = set()
    for number, row in numbered:
        if not isinstance(row, dict) or "id" not in row:
            raise EvaluationError(f"{where}, row {number}: not an object with an id")
        row["id"] = str(row["id"])
        if row["id"] in seen:
            raise EvaluationError(f"{where}, row {number}: the id {row['id']!r} stands there twice")
        seen.add(row["id"])
        for key, kind in FIELDS[name].items():
            if not isinstance(row.get(key), kind) or (kind is not int and not row[key]):
                raise EvaluationError(f"{where}, row {number}: {key}={row.get(key)!r}", allowed=f"a {kind.__name__}")
        options = row.get("choices", row.get("contexts"))
        if options is not None and not 0 <= row["answer"] < len(options):
            raise EvaluationError(f"{where}, row {number}: answer={row['answer']} of {len(options)} choices")
    return [row for _, row in numbered]
