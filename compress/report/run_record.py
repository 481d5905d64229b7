"""Reads and writes run.json: when a run was finished, on which machine, and the settings it was given.

    {"schema_version": 1, "finished": "2026-03-01T12:00:00Z", "seconds": 412.3, "compress_version": "0.1.0",
     "machine": {"processor": "…", "cores": 8, "memory_bytes": 33554432000, "system": "Linux x86_64"},
     "settings": {"model": "path/to/model", "limit": 100},
     "tells_of": {"compress.json": "<sha256>", "eval.json": null}}

It is apart from the manifest, since the same recipe gives the same manifest on any day. `settings` are the fields of
the recipe that are not its stages, without those at their default; `seconds` are those of the command that finished the
run, which may have gone on with the work of an interrupted one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import time
from pathlib import Path
from typing import Any

from compress import __version__
from compress.bench.processor import cores, processor
from compress.errors import FormatError
from compress.json_files import write_text
from compress.recipe import RECIPE_OPTIONS, Recipe
from compress.report import shapes
from compress.report.shapes import COUNT, NUMBER, OBJECT, TEXT

FILE = "run.json"
_SCHEMA = 1
_WORK = ("compress.json", "eval.json")
"""Files that a run makes, which the record tells of."""
_SHAPE = {
    "finished": TEXT,
    "seconds": NUMBER,
    "machine": {"processor": TEXT, "cores": COUNT, "memory_bytes": COUNT, "system": TEXT},
    "settings": OBJECT,
    "tells_of": OBJECT,
}


def update(folder: Path, recipe: Recipe, seconds: float) -> None:
    """Writes run.json into the folder of a run that is finished now; one that tells of the same files stays.

    A finished run that is asked for again does nothing, and keeps the date of its work.

    Args:
        folder: the checkpoint.
        recipe: the recipe as it was given.
        seconds: wall time of the command.
    """
    import psutil

    tells_of = {name: _digest(folder / name) for name in _WORK}
    if (folder / FILE).is_file() and (read(folder) or {}).get("tells_of") == tells_of:
        return
    record = {
        "schema_version": _SCHEMA,
        "tells_of": tells_of,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
        "compress_version": __version__,
        "machine": {
            "processor": processor(),
            "cores": cores(),
            "memory_bytes": psutil.virtual_memory().total,
            "system": f"{platform.system()} {platform.machine()}",
        },
        "settings": _settings(recipe),
    }
    write_text(folder / FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def read(folder: Path) -> dict[str, Any] | None:
    """Returns the content of run.json, None where there is none; FormatError for a damaged file."""
    path = folder / FILE
    if not path.is_file():
        return None
    checked, problems = shapes.checked(shapes.versioned(path, _SCHEMA), _SHAPE)
    if problems:
        raise FormatError(f"{path} is damaged: {problems[0]}", do="Remove the file; the report then has no date")
    return checked


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _settings(recipe: Recipe) -> dict[str, Any]:
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    given = {name: getattr(recipe, name) for name in RECIPE_OPTIONS if name != "output"}
    kept = {name: value for name, value in given.items() if name == "model" or value != defaults[name]}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}
