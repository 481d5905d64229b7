"""Reads and checks the inputs of a report: folders of runs, an eval.json, folders of frontiers. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.bench import speed
from compress.bench.speed import Speed
from compress.errors import FormatError
from compress.evaluation.result import EvalResult
from compress.format.manifest import MANIFEST, fingerprint, read_manifest
from compress.report import chats, run_record, shapes
from compress.report.page import notes
from compress.report.shapes import COUNT, NUMBER, OBJECT, TEXT, Each, Fields

EVALUATION, FRONTIER, GATE = "eval.json", "frontier.json", "gate.json"
_SCHEMA = 1
"""Version of both frontier.json and gate.json."""


_GATE = Fields({"verdict": TEXT, "reasons": [TEXT], "families": OBJECT}, needed=("verdict", "reasons", "families"))
_POINT = {
    "label": TEXT,
    "column": TEXT,
    "refused": TEXT,
    "bits_per_weight": NUMBER,
    "size_bytes": COUNT,
    "kl": Fields({"mean": NUMBER, "low": NUMBER, "high": NUMBER}, needed=("mean", "low", "high")),
    "perplexity": NUMBER,
    "scores": Each(NUMBER),
    "differences": Each(Fields({"difference": NUMBER}, needed=("difference",))),
}
_NO_QUESTIONS = "heldout"
"""The suite without families."""
_MEASURED = ("bits_per_weight", "size_bytes", "kl", "perplexity", "scores", "differences")
"""Fields of a point that was not refused."""
_FRONTIER = Fields(
    {
        "model": TEXT,
        "suite": Fields({"name": TEXT}, needed=("name",)),
        "limit": COUNT,
        "dense": Fields({"perplexity": NUMBER, "scores": Each(NUMBER)}, needed=("perplexity", "scores")),
        "points": [Fields(_POINT, needed=("label", "column"))],
    },
    needed=("model", "suite", "limit", "dense", "points"),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run: a checkpoint with its manifest, an evaluation, or both."""

    name: str
    """Name on the page: that of its folder, or of the file for an evaluation alone."""
    manifest: dict[str, Any] | None
    evaluation: EvalResult | None
    gate: dict[str, Any] | None = None
    """Content of a gate.json."""
    warnings: tuple[str, ...] = ()
    """Contradictions between the files of the folder."""
    speed: Speed | None = None
    """Result of `compress bench`."""
    chats: tuple[dict[str, Any], ...] = ()
    """Conversations of `compress chat` that were saved (`report.chats`)."""
    record: dict[str, Any] | None = None
    """Content of run.json: day, machine, settings."""
    notes: str | None = None
    """Text of notes.md, in markdown."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The runs and frontiers to report on, in the order given."""

    runs: tuple[Run, ...]
    frontiers: tuple[dict[str, Any], ...] = ()
    """Contents of frontier.json files."""


def read(paths: Iterable[str | Path]) -> Sources:
    """Returns the content of the folders and files `paths`.

    A folder holds a run (compress.json, eval.json or both) or a frontier (frontier.json); a file is an eval.json.

    Raises:
        FormatError: a path that is none of these, or is named twice.
        EvaluationError: an eval.json that cannot be read.
    """
    runs: list[Run] = []
    frontiers: list[dict[str, Any]] = []
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.resolve() in seen:
            raise FormatError(f"{path} is given twice", do="Name every run once")
        seen.add(path.resolve())
        if (path / FRONTIER).is_file():
            frontiers.append(_frontier(path / FRONTIER))
        else:
            runs.append(_run(path))
    if not runs and not frontiers:
        raise FormatError("no run to report on", do="Name the folder of one, such as runs/atlas-spqr-3bit")
    return Sources(_with_unique_names(runs), tuple(frontiers))


def of_checkpoint(folder: Path, manifest: dict[str, Any], evaluation: EvalResult | None) -> Run:
    """Returns the run of a checkpoint, with the speed measured in its folder, and a warning for files of another one.

    eval.json and speed.json name the checkpoint that they were made with; after a second run into the same folder they
    may be older than the checkpoint.
    """
    measured, said = speed.read(folder), tuple(chats.read(folder))
    named = {
        EVALUATION: None if evaluation is None else evaluation.model.get("fingerprint"),
        speed.FILE: None if measured is None else measured.fingerprint,
        chats.FILE: next((chat["fingerprint"] for chat in said if "fingerprint" in chat), None),
    }
    present = fingerprint(folder) if (folder / MANIFEST).is_file() else None
    others = [file for file, made_with in named.items() if None not in (made_with, present) and made_with != present]
    warnings = tuple(f"{file} was made with another checkpoint than the one beside it" for file in others)
    return Run(
        folder.resolve().name,
        manifest,
        evaluation,
        warnings=warnings,
        speed=measured,
        chats=said,
        record=run_record.read(folder),
        notes=read_notes(folder / notes.FILE) if (folder / notes.FILE).is_file() else None,
    )


def read_gate(folder: Path) -> dict[str, Any] | None:
    """Returns the content of gate.json in `folder`, None where there is none; FormatError for a damaged file."""
    return _read(folder / GATE, _GATE) if (folder / GATE).is_file() else None


def read_notes(path: Path) -> str:
    """Returns the text of notes; FormatError for a file that cannot be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FormatError(f"the notes {path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"the notes {path} are not text in UTF-8: {error.reason}") from error


def _run(path: Path) -> Run:
    if path.is_file():
        return Run(path.name, None, EvalResult.read(path))
    if not path.is_dir():
        raise FormatError(f"there is no folder {path}", allowed=f"a run, an {EVALUATION}, or a frontier")
    evaluation = EvalResult.read(path / EVALUATION) if (path / EVALUATION).is_file() else None
    gate = read_gate(path)
    if (path / MANIFEST).is_file():
        return dataclasses.replace(of_checkpoint(path, read_manifest(path), evaluation), gate=gate)
    if evaluation is None:
        raise FormatError(f"{path} holds no run", allowed=f"a folder with {MANIFEST}, {EVALUATION} or {FRONTIER}")
    return Run(path.resolve().name, None, evaluation, gate)


def _frontier(path: Path) -> dict[str, Any]:
    """Returns the content of a frontier.json; FormatError unless its points have what the table and the chart show."""
    data = _read(path, _FRONTIER)
    families = data["dense"]["scores"]
    if not families and data["suite"].get("name") != _NO_QUESTIONS:
        raise FormatError(f"{path} is damaged: dense.scores names no family")
    for index, point in enumerate(data["points"]):
        if "refused" in point:
            continue
        missing = [key for key in _MEASURED if point.get(key) is None]
        by_family = [key for key in ("scores", "differences") if key not in missing]
        missing += [f"{key}.{family}" for key in by_family for family in families if family not in point[key]]
        if missing:
            raise FormatError(f"{path} is damaged: points[{index}] lacks {', '.join(missing)}")
    return data


def _read(path: Path, shape: Fields) -> dict[str, Any]:
    """Returns the content of a JSON file; FormatError for another schema version, missing or mistyped fields."""
    data = shapes.versioned(path, _SCHEMA)
    if missing := [key for key in shape.needed if key not in data]:
        raise FormatError(f"{path} lacks {', '.join(missing)}")
    _, problems = shapes.checked(data, shape.shapes)
    if problems:
        raise FormatError(f"{path} is damaged: {problems[0]}")
    return data


def _with_unique_names(runs: list[Run]) -> tuple[Run, ...]:
    """Adds a number to names that several runs share."""
    names = [run.name for run in runs]
    return tuple(
        run
        if names.count(run.name) == 1
        else dataclasses.replace(run, name=f"{run.name} ({names[: i + 1].count(run.name)})")
        for i, run in enumerate(runs)
    )
