"""Recipe: what to compress, how, and with which data. Standard library only; TOML, flags and Python give the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.errors import RecipeError, unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSpec:
    """Which tokens the statistics are collected on."""

    source: str = "bundled"
    """`bundled`, a text file (.txt, .md, .jsonl with a `text` field), a token file (.safetensors with `tokens`),
    or `hub:NAME[:SPLIT[:COLUMN]]`."""
    samples: int = 128
    """Number of sequences, 1 or more."""
    seq_len: int = 256
    """Tokens per sequence, 2 up to what the model takes."""
    seed: int = 0
    """Seed of the draw of the sequences."""

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("seq_len", 2), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise RecipeError(f"calibration {name}={value!r}", allowed=f"an integer of at least {least}")


TUNINGS = ("block", "full")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One method with its options; the defaults of the method's Config fill what is not given."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tune: str | None = None
    """What is fitted to the dense model: `block`, each block once it is packed; `full`, after that all at once."""
    target_bits: float | None = None
    """Stored bits per weight, on average over all linears, that the method's bits are allotted for per linear."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the recipe's calibration in which this stage differs."""

    def __post_init__(self) -> None:
        if self.tune not in (None, *TUNINGS):
            raise RecipeError(unknown("tuning", str(self.tune), TUNINGS), allowed=", ".join(TUNINGS))
        _refuse_unknown("calibration key", self.calibration, {f.name for f in dataclasses.fields(CalibrationSpec)})
        if self.target_bits is not None and not 0 < self.target_bits <= 16:
            raise RecipeError(f"target_bits={self.target_bits}", allowed="more than 0, at most 16")

    def identity(self) -> dict[str, Any]:
        """Returns what determines the bytes, as JSON values; what is not asked for is not there."""
        asked = {"tune": self.tune, "target_bits": self.target_bits}
        return {
            "method": self.method,
            "options": _json_values(self.options),
            **{name: value for name, value in asked.items() if value is not None},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A list of stages over one model."""

    model: str = "atlas"
    """`atlas` (bundled), a local folder, or a hub id."""
    revision: str | None = None
    """Revision of a hub id."""
    output: str | None = None
    """Folder of the result; `runs/<model>-<method>` when not given."""
    stages: tuple[StageSpec, ...] = ()
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    skip: tuple[str, ...] = ()
    """Globs of linears to leave dense, e.g. `*.down_proj`. The head, embeddings and routers always stay dense."""
    suite: str = "kick-atlas"
    """Evaluation suite, or `none`."""
    data_dir: str | None = None
    """Folder of the suite's public data, for suites that have any; the hub when not given."""
    tier: str | None = None
    """How much of the suite is asked, for suites with tiers; all of it when not given."""
    limit: int | None = None
    """Items per family of the suite; all when not given."""
    max_memory: int | None = None
    """Ceiling of the resident memory in bytes; planned for before the start and enforced."""
    workers: int = 1
    """Processes that solve at the same time; more than one only for methods that need no data."""
    min_coverage: float = 0.9
    """Least share, 0 to 1, of the decoder's linear parameters that must be compressed; below it the run fails."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise RecipeError("the recipe has no stage", do='Add a [[stage]] with method = "spqr"')
        if not 0 <= self.min_coverage <= 1:
            raise RecipeError(f"min_coverage={self.min_coverage}", allowed="a share from 0 to 1")
        if self.limit is not None and self.limit < 1:
            raise RecipeError(f"limit={self.limit}", allowed="1 or more items per family")
        if self.workers < 1:
            raise RecipeError(f"workers={self.workers}", allowed="1 or more processes")

    @classmethod
    def from_toml(cls, path: str | Path) -> Recipe:
        """Reads a recipe file; an unknown key is an error with a suggestion."""
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise RecipeError(f"no recipe file {path}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is not valid TOML: {error}") from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Builds a recipe from the structure of the TOML file: plain keys, `calibration`, a list `stage`."""
        known = {f.name for f in dataclasses.fields(cls)} - {"stages"} | {"stage"}
        _refuse_unknown("recipe key", data, known)
        values = {key: value for key, value in data.items() if key not in ("stage", "calibration")}
        if "skip" in values:
            values["skip"] = tuple(values["skip"])
        if isinstance(values.get("max_memory"), str):
            values["max_memory"] = parse_size(values["max_memory"])
        calibration = data.get("calibration", {})
        _refuse_unknown("calibration key", calibration, {f.name for f in dataclasses.fields(CalibrationSpec)})
        return cls(
            **values, calibration=CalibrationSpec(**calibration), stages=tuple(_stage(s) for s in data.get("stage", []))
        )

    @property
    def model_name(self) -> str:
        """The model without the place where it lies: a hub id as it is, of a folder its last part."""
        return self.model if not Path(self.model).is_dir() else Path(self.model).resolve().name

    def step(self, number: int, model: str, output: str) -> Recipe:
        """Returns the recipe of stage `number` (from 0) alone, over the checkpoint `model` that the one before left."""
        stage = self.stages[number]
        return dataclasses.replace(
            self,
            model=model,
            revision=self.revision if number == 0 else None,
            output=output,
            stages=(dataclasses.replace(stage, calibration={}),),
            calibration=dataclasses.replace(self.calibration, **stage.calibration),
        )

    def identity(self) -> dict[str, Any]:
        """Returns what determines the bytes of the result, as JSON values (not where it goes nor how it is tested)."""
        assert len(self.stages) == 1, "a checkpoint is the result of one stage; see `step`"
        return {
            "stages": [stage.identity() for stage in self.stages],
            "calibration": dataclasses.asdict(self.calibration),
            "skip": list(self.skip),
        }


def _json_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options with infinity as text, which JSON has no number for."""
    return {name: str(value) if value in (math.inf, -math.inf) else value for name, value in options.items()}


def digest(value: Any) -> str:
    """Returns the sha256 (hex) of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_size(text: str) -> int:
    """Returns bytes for `2.5GB`, `800MiB`, `1e9`; decimal units are powers of 1000, binary ones of 1024."""
    units = {"": 1, "b": 1}
    for power, letter in enumerate("kmgt", start=1):
        units |= {letter: 1000**power, f"{letter}b": 1000**power, f"{letter}ib": 1024**power}
    number = text.strip().rstrip("abcdfghijklmnopqrstuvwxyzABCDFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text.strip()[len(number) :].strip().lower()
    try:
        size = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError) as error:
        raise RecipeError(f"size {text!r}", allowed="a number with a unit, such as 2.5GB or 800MiB") from error
    if size <= 0:
        raise RecipeError(f"size {text!r}", allowed="more than zero bytes")
    return size


def _stage(data: Any) -> StageSpec:
    if not isinstance(data, Mapping) or "method" not in data:
        raise RecipeError("a [[stage]] lacks its method", do='Write method = "spqr" in it')
    fields = {f.name for f in dataclasses.fields(StageSpec)} - {"options"}
    options = {key: value for key, value in data.items() if key not in fields}
    return StageSpec(options=options, **{key: value for key, value in data.items() if key in fields})


def _refuse_unknown(kind: str, data: Any, known: set[str]) -> None:
    if not isinstance(data, Mapping):
        raise RecipeError(f"{kind}s must be a table, not {data!r}")
    for key in data:
        if key not in known:
            raise RecipeError(unknown(kind, key, known), allowed=", ".join(sorted(known)))
