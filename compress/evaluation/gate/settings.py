"""Holds GateSettings and GateJob: the criteria and inputs of the gate. Standard library only."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import EvaluationError, unknown

FILE = "compress.toml"
TABLE = "gate"
_BY_ITEMS = ((4000, 1.0), (1500, 2.0), (0, 5.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """The criteria of the gate. A point is 0.01 of the outcome: one item in a hundred."""

    margin: Mapping[str, float] = field(default_factory=dict)
    """Tolerated loss in points by family, above 0 and below 100; `default` applies to all other families. If there is
    no entry: 1 from 4,000 items on, 2 from 1,500, else 5."""
    floor: Mapping[str, float] = field(default_factory=dict)
    """Lowest allowed score of the dense model in points, by family, 0 to 100. If there is no entry: chance plus the
    margin. Below the floor a loss could not be measured."""
    report_only: tuple[str, ...] | None = None
    """Families that are reported but not judged; None: the default of the suite (`gate.decide.REPORT_ONLY`)."""
    confidence: float = 0.95
    """Confidence of each one-sided bound, 0.5 to 1: a candidate that lost exactly the margin passes at a rate of
    1 − confidence."""
    max_empty: float = 5.0
    """Tolerated rise of the share of empty answers in points, 0 to 100."""
    max_kl: float | None = None
    """Tolerated mean divergence from the dense model, in nats per token; None: the divergence is not judged."""

    def __post_init__(self) -> None:
        for name, value in self.margin.items():
            _check(f"margin of {name}", value, 0 < _number(value) < 100, "more than 0 and less than 100 points")
        for name, value in self.floor.items():
            _check(f"floor of {name}", value, 0 <= _number(value) <= 100, "0 to 100 points")
        _check("confidence", self.confidence, 0.5 < _number(self.confidence) < 1, "more than 0.5 and less than 1")
        _check("max_empty", self.max_empty, 0 <= _number(self.max_empty) <= 100, "0 to 100 points")
        if self.max_kl is not None:
            _check("max_kl", self.max_kl, _number(self.max_kl) > 0, "nats per token, more than 0")

    def margin_of(self, family: str, items: int) -> float:
        """Returns the margin of `family`, 0 to 1; the default depends on the number of `items`."""
        margin = self.margin.get(family, self.margin.get("default"))
        usual = next(points for least, points in _BY_ITEMS if items >= least)
        return (usual if margin is None else margin) / 100


@dataclass(frozen=True, slots=True, kw_only=True)
class GateJob:
    """The table `[gate]` of compress.toml: the two models, the suite and the criteria."""

    dense: str | None = None
    """Model, or its eval.json."""
    candidate: str | None = None
    """Model, or its eval.json."""
    suite: str | None = None
    """Name of the suite; None: `auto`."""
    data_dir: str | None = None
    """Folder with the data of a public suite."""
    chat: str | None = None
    """Whether a chat model is asked through its chat template: `always`, `never`; None: `auto`."""
    tier: str | None = None
    """`pr` or `release`; None: no tier."""
    limit: int | None = None
    """Items per family; None: all."""
    device: str | None = None
    """Device of the evaluation; None: `auto`."""
    batch_size: int | None = None
    """Sequences at a time."""
    max_memory: str | None = None
    """Limit on resident memory, such as `2.5GB`; None: what is free."""
    output: str | None = None
    """Folder for gate.md, gate.json and junit.xml; None: no files are written."""
    inconclusive_ok: bool = False
    """Whether the exit code of an inconclusive gate is 0."""
    settings: GateSettings = field(default_factory=GateSettings)

    @classmethod
    def from_toml(cls, path: str | Path) -> GateJob:
        """Returns the job from the table `[gate]` of a file. Paths in it are relative to the file.

        Raises EvaluationError for a missing or invalid file, an unknown key (with a suggestion) and a wrong value.
        """
        path = Path(path)
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise EvaluationError(f"there is no file {path}", do="Correct --config, or write the file") from error
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise EvaluationError(f"{path} is not valid TOML: {error}") from error
        _refuse_unknown("table", data, {TABLE}, path)
        if TABLE not in data:
            raise EvaluationError(f"{path} has no table [{TABLE}]", do=f"Write [{TABLE}] with dense and candidate")
        return cls.from_dict(data[TABLE], path)

    @classmethod
    def from_dict(cls, data: Any, path: Path) -> GateJob:
        """Returns the job from the table `data` of the file `path`."""
        own, settings = (
            {field.name for field in dataclasses.fields(kind)} - {"settings"} for kind in (cls, GateSettings)
        )
        _refuse_unknown("key", data, own | settings, path)
        for key in ("margin", "floor"):
            if isinstance(data.get(key), int | float) and key == "margin":
                data = {**data, key: {"default": data[key]}}
            if not isinstance(data.get(key, {}), Mapping):
                raise EvaluationError(f"{path}: {key} = {data[key]!r}", allowed="a table of families and points")
        if "report_only" in data:
            data = {**data, "report_only": _texts("report_only", data["report_only"], path)}
        for key, kind in _KINDS.items():
            if key in data and (not isinstance(data[key], kind) or (kind is int and isinstance(data[key], bool))):
                raise EvaluationError(f"{path}: {key} = {data[key]!r}", allowed=_NAMES[kind])
        job = cls(
            **{key: value for key, value in data.items() if key in own},
            settings=GateSettings(**{key: value for key, value in data.items() if key in settings}),
        )
        return job._beside(path.parent)

    def _beside(self, folder: Path) -> GateJob:
        """Returns the job with every value that names an existing file in `folder` replaced by that path."""

        def placed(value: str | None) -> str | None:
            return str(folder / value) if value is not None and (folder / value).exists() else value

        output = None if self.output is None else str(folder / self.output)
        return dataclasses.replace(
            self,
            dense=placed(self.dense),
            candidate=placed(self.candidate),
            suite=placed(self.suite),
            data_dir=placed(self.data_dir),
            output=output,
        )


_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("dense", "candidate", "suite", "data_dir", "chat", "tier", "device", "max_memory", "output"), str),
    **dict.fromkeys(("limit", "batch_size"), int),
    "inconclusive_ok": bool,
}


_NAMES: Mapping[type, str] = {str: "a text", int: "an integer", bool: "true or false"}


def points(pairs: Iterable[str], what: str) -> dict[str, float]:
    """Returns points by family from texts such as `factoid=2`; a bare `2` becomes `default`."""
    by_family = {}
    for pair in pairs:
        name, _, number = pair.rpartition("=")
        try:
            by_family[name.strip() or "default"] = float(number)
        except ValueError as error:
            raise EvaluationError(f"{what} {pair!r}", allowed="FAMILY=POINTS, such as factoid=2, or POINTS") from error
    return by_family


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return float("nan")  # fails every range check
    return float(value)


def _check(what: str, value: Any, right: bool, allowed: str) -> None:
    if not right:
        raise EvaluationError(f"{what}: {value!r}", allowed=allowed)


def _texts(key: str, value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise EvaluationError(f"{path}: {key} = {value!r}", allowed="a list of names")
    return tuple(value)


def _refuse_unknown(kind: str, data: Any, known: set[str], path: Path) -> None:
    if not isinstance(data, Mapping):
        raise EvaluationError(f"{path}: [{TABLE}] is {data!r}", allowed="a table")
    for key in data:
        if key not in known:
            raise EvaluationError(f"{path}: {unknown(kind, key, known)}", allowed=", ".join(sorted(known)))
