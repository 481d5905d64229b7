"""What a report is made from: folders of runs, an eval.json, the folder of a frontier. Read and checked; no torch."""

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
from compress.json_files import read_object

EVALUATION, FRONTIER, GATE = "eval.json", "frontier.json", "gate.json"
_SCHEMA = 1
"""Of frontier.json and gate.json alike."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run: a checkpoint with its manifest, an evaluation, or both."""

    name: str
    """What it is called on the page: its folder, or the file of an evaluation alone."""
    manifest: dict[str, Any] | None
    evaluation: EvalResult | None
    gate: dict[str, Any] | None = None
    """Content of a gate.json."""
    warnings: tuple[str, ...] = ()
    """What is wrong between manifest and evaluation."""
    speed: Speed | None = None
    """What `compress bench` measured."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that was asked to be reported on, in the order given."""

    runs: tuple[Run, ...]
    frontiers: tuple[dict[str, Any], ...] = ()
    """Contents of frontier.json files."""


def read(paths: Iterable[str | Path]) -> Sources:
    """Returns what stands in the folders and files `paths`.

    A folder holds a run (compress.json, eval.json or both) or a frontier (frontier.json); a file is an eval.json.

    Raises:
        FormatError: a path that is none of these, or named twice.
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
            frontiers.append(_checked(path / FRONTIER, ("model", "suite", "limit", "dense", "points")))
        else:
            runs.append(_run(path))
    if not runs and not frontiers:
        raise FormatError("no run", do="Name the folder of one, such as runs/atlas-spqr")
    return Sources(_told_apart(runs), tuple(frontiers))


def _run(path: Path) -> Run:
    if path.is_file():
        return Run(path.name, None, EvalResult.read(path))
    if not path.is_dir():
        raise FormatError(f"there is no folder {path}", allowed=f"a run, an {EVALUATION}, or a frontier")
    evaluation = EvalResult.read(path / EVALUATION) if (path / EVALUATION).is_file() else None
    gate = _checked(path / GATE, ("verdict", "reasons", "families")) if (path / GATE).is_file() else None
    name = path.resolve().name
    if not (path / MANIFEST).is_file():
        if evaluation is None:
            raise FormatError(f"{path} holds no run", allowed=f"a folder with {MANIFEST}, {EVALUATION} or {FRONTIER}")
        return Run(name, None, evaluation, gate)
    manifest = read_manifest(path)
    measured = speed.read(path)
    made_of = {
        EVALUATION: None if evaluation is None else evaluation.model.get("fingerprint"),
        speed.FILE: None if measured is None else measured.fingerprint,
    }
    strange = [file for file, found in made_of.items() if found not in (None, fingerprint(path))]
    warnings = tuple(f"{file} was made of another checkpoint than the one beside it" for file in strange)
    return Run(name, manifest, evaluation, gate, warnings, measured)


def _checked(path: Path, fields: tuple[str, ...]) -> dict[str, Any]:
    """The content of a JSON file of the schema that is known here."""
    data = read_object(path)
    if (version := data.get("schema_version")) != _SCHEMA:
        raise FormatError(f"{path} has schema version {version!r}", allowed=f"{_SCHEMA}")
    if missing := [key for key in fields if key not in data]:
        raise FormatError(f"{path} lacks {', '.join(missing)}")
    return data


def _told_apart(runs: list[Run]) -> tuple[Run, ...]:
    """Numbers the names that several runs have."""
    names = [run.name for run in runs]
    return tuple(
        run
        if names.count(run.name) == 1
        else dataclasses.replace(run, name=f"{run.name} ({names[: i + 1].count(run.name)})")
        for i, run in enumerate(runs)
    )
