"""Recipe: what to compress, how, and with which data. Read from TOML, flags or Python; standard library only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from compress import devices, engines, recipe_shape
from compress.errors import RecipeError, unknown
from compress.sizes import parse_size

_LARGEST = 2**63 - 1
"""The largest seed that torch takes as a signed number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationSpec:
    """The text that statistics are collected on and that models are trained on."""

    source: str = "auto"
    """`auto` (atlas: its bundled text; any other model: a preset from the hub, or `self` where the hub is out of
    reach), `self` (text that the dense model writes), `bundled` (about atlas' world), a preset (`wikitext`, `c4`,
    `fineweb-edu`, `ultrachat`, `openplatypus`, `smoltalk`), `hub:NAME[@CONFIG][:SPLIT[:COLUMN]]`, a file or a folder of
    text, rows or chats (.txt, .md, .jsonl, .json, .csv, .tsv, .parquet, .arrow, what `save_to_disk` wrote), a token
    file (.safetensors with `tokens`), or a mixture of them with shares (`c4:96,ultrachat:32`)."""
    column: str | None = None
    """Column of the text or the chats; chosen when None. A file may also name it as `FILE:COLUMN`."""
    samples: int = 128
    """Number of sequences, 1 or more."""
    seq_len: int = 256
    """Tokens per sequence, 2 up to what the model takes."""
    seed: int = 0
    """Seed for drawing the sequences."""

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("seq_len", 2), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise RecipeError(f"calibration {name}={value!r}", allowed=f"an integer of at least {least}")
            if value > _LARGEST:
                raise RecipeError(f"calibration {name}={value}", allowed=f"at most {_LARGEST}")
        _check_types("calibration ", self)

    def identity(self) -> dict[str, Any]:
        """Returns the settings as JSON values; those that are None are left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


TUNINGS = ("block", "full")
KV_CACHES = ("fp8",)
AUTO = "auto"
DEFAULT_END_BITS = 8
"""Bits of an embedding and a head for which none are given."""
EndBits: TypeAlias = int | str | None
"""Bits of the embedding or the head: 2 to 8, `auto`, or None (in text `none`) to leave it dense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One method with its options. Options that are not given have the defaults of the method's Config."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tune: str | None = None
    """Fine-tuning after packing: `block` fits each packed block to the dense one; `full` then also fits the whole
    model. None: no fine-tuning."""
    target_bits: float | None = None
    """Average stored bits per weight for mixed precision; each linear gets its own options. None: the same for all."""
    embedding_bits: EndBits = AUTO
    """Bits of the token embedding: 2 to 8, or `none` to leave it dense. Not given: 8, or the bits of a head that shares
    its weight, and what an earlier stage packed stays as it is."""
    head_bits: EndBits = AUTO
    """Bits of the output head; as `embedding_bits`."""
    kv_cache: str | None = None
    """Rounds keys and values to `fp8` with scales from calibration, which engines need to keep their cache in 8 bits.
    None: they stay as they are."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """Calibration settings of this stage that differ from the recipe's."""

    def __post_init__(self) -> None:
        _check_types("", self)
        if self.tune not in (None, *TUNINGS):
            raise RecipeError(unknown("tuning", str(self.tune), TUNINGS), allowed=", ".join(TUNINGS))
        if self.kv_cache not in (None, *KV_CACHES):
            raise RecipeError(unknown("kv_cache", str(self.kv_cache), KV_CACHES), allowed=", ".join(KV_CACHES))
        recipe_shape.refuse_unknown(
            "calibration key", self.calibration, {f.name for f in dataclasses.fields(CalibrationSpec)}
        )
        if self.target_bits is not None and not 0 < self.target_bits <= 16:
            raise RecipeError(f"target_bits={self.target_bits}", allowed="more than 0, at most 16")
        for name in ("embedding_bits", "head_bits"):
            object.__setattr__(self, name, _end_bits(name, getattr(self, name)))

    def identity(self) -> dict[str, Any]:
        """Returns the settings that the output bytes depend on, as JSON values; settings that are None are left out."""
        settings = {"tune": self.tune, "target_bits": self.target_bits, "kv_cache": self.kv_cache}
        return {
            "method": self.method,
            "options": _json_values(self.options),
            **{name: value for name, value in settings.items() if value is not None},
            **{name: "none" if bits is None else bits for name, bits in self.end_bits.items() if bits != AUTO},
        }

    @property
    def end_bits(self) -> dict[str, EndBits]:
        """The settings `embedding_bits` and `head_bits` by name."""
        return {"embedding_bits": self.embedding_bits, "head_bits": self.head_bits}


FORWARD_DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A model and the stages that compress it, with the settings of the run."""

    model: str = "atlas"
    """`atlas` (bundled), `smollm2` (SmolLM2-135M-Instruct, from a Python package), a local folder, or a hub id."""
    revision: str | None = None
    """Revision of a hub id."""
    output: str | None = None
    """Folder of the result; `runs/<model>-<method>-<width>` when not given, as in `runs/atlas-spqr-3bit`."""
    stages: tuple[StageSpec, ...] = ()
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    skip: tuple[str, ...] = ()
    """Globs of linears to leave dense, e.g. `*.down_proj`. Routers always stay dense."""
    engine: str | None = None
    """Engine that the result is for (`compress.engines.ENGINES`): options that it cannot hold are refused, and those
    that are not given are chosen for it. None: any option."""
    suite: str = "auto"
    """Evaluation suite, a file of questions, `auto` (by the model: `docs/EVAL.md`), or `none`."""
    chat: str = "auto"
    """Whether a chat model is asked through its chat template: `auto`, `always` or `never`."""
    data_dir: str | None = None
    """Folder of the suite's public data, for suites that have any; the hub when not given."""
    tier: str | None = None
    """Share of the suite to ask, for suites with tiers: `quick`, `pr` or `release`; all items when not given."""
    limit: int | None = None
    """Items per family of the suite; all when not given."""
    max_memory: int | None = None
    """Limit on resident memory in bytes; checked against the plan before the start, and enforced during the run."""
    device: str = "auto"
    """Device to compute on: `cpu`, `cuda[:N]`, `xpu`, `mps`, or `auto`, which is the first of cuda, xpu and mps that is
    there, else the CPU."""
    forward_dtype: str = "auto"
    """Products of the calibration forward: `float32`, `bfloat16`, or `auto`: bfloat16 where the device is fast at it.
    Statistics and solvers compute in float32 or better either way."""
    max_shard_size: int = 5_000_000_000
    """Largest file of weights in bytes; a decoder block that is larger is a file by itself."""
    workers: int = 1
    """Worker processes that solve linears; more than one only for methods that need no calibration data."""
    keep_codes: bool = False
    """Carries the codes of a model that another program quantised over where a layout of this package holds them; the
    first stage then packs the other linears only. False: they are decoded and packed anew."""
    min_coverage: float = 0.9
    """Minimum share, 0 to 1, of the decoder's matrix parameters that must be compressed; below it the run fails."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise RecipeError("the recipe has no stage", do='Add a [[stage]] with method = "spqr"')
        _check_types("", self)
        devices.check(self.device)
        engines.check(self.engine)
        if self.forward_dtype not in FORWARD_DTYPES:
            raise RecipeError(
                unknown("forward_dtype", self.forward_dtype, FORWARD_DTYPES), allowed=", ".join(FORWARD_DTYPES)
            )
        if not 0 <= self.min_coverage <= 1:
            raise RecipeError(f"min_coverage={self.min_coverage}", allowed="a share from 0 to 1")
        if self.limit is not None and self.limit < 1:
            raise RecipeError(f"limit={self.limit}", allowed="1 or more items per family")
        if self.workers < 1:
            raise RecipeError(f"workers={self.workers}", allowed="1 or more processes")
        if self.max_shard_size < 1:
            raise RecipeError(f"max_shard_size={self.max_shard_size}", allowed="more than zero bytes")
        if self.max_memory is not None and self.max_memory < 1:
            raise RecipeError(f"max_memory={self.max_memory}", allowed="more than zero bytes")

    @classmethod
    def from_options(cls, model: str, method: str, options: Mapping[str, Any]) -> Recipe:
        """Returns the recipe of one stage for a Python call or a command line; see `with_options` for the names."""
        return cls(model=model, stages=(StageSpec(method=method),)).with_options(options)

    def with_options(self, options: Mapping[str, Any]) -> Recipe:
        """Returns the recipe with some settings replaced.

        Args:
            options: setting -> value. A name in `RECIPE_OPTIONS` sets a field of the recipe, one in
                `CALIBRATION_OPTIONS` of its calibration, one in `STAGE_OPTIONS` of its only stage; any other name is
                an option of the stage's method. Sizes may be text (`2.5GB`), `skip` one glob, `suite` None.

        Raises:
            RecipeError: a setting of a stage is given, but the recipe has several stages; or a value is not allowed.
        """
        recipe = {name: value for name, value in options.items() if name in RECIPE_OPTIONS}
        calibration = {field: options[name] for name, field in CALIBRATION_OPTIONS.items() if name in options}
        stage = {name: value for name, value in options.items() if name in STAGE_OPTIONS}
        own = {name: options[name] for name in options if name not in {*recipe, *CALIBRATION_OPTIONS, *stage}}
        if (own or stage) and len(self.stages) > 1:
            raise RecipeError(
                f"{', '.join([*own, *stage])} given beside a recipe of {len(self.stages)} stages",
                do="Write it into the [[stage]] of the recipe file",
            )
        if "suite" in recipe and recipe["suite"] is None:
            recipe["suite"] = "none"
        return dataclasses.replace(
            self,
            **_converted(recipe),
            calibration=dataclasses.replace(self.calibration, **calibration),
            stages=tuple(dataclasses.replace(each, options={**each.options, **own}, **stage) for each in self.stages),
        )

    @classmethod
    def from_toml(cls, path: str | Path) -> Recipe:
        """Reads a recipe file; an unknown key is an error with a suggestion."""
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
        except FileNotFoundError as error:
            raise RecipeError(f"there is no recipe file {path}", do="Correct the path after --recipe") from error
        except OSError as error:
            raise RecipeError(f"the recipe file {path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:  # not TOML, not UTF-8, or a number of thousands of digits
            raise RecipeError(f"{path} is not valid TOML: {error}") from error
        except RecursionError as error:
            raise RecipeError(f"{path} is not valid TOML: it is nested too deeply") from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Builds a recipe from the structure of the TOML file: plain keys, `calibration`, a list `stage`."""
        known = {f.name for f in dataclasses.fields(cls)} - {"stages"} | {"stage"}
        recipe_shape.check(data, known, {f.name for f in dataclasses.fields(CalibrationSpec)})
        values = {key: value for key, value in data.items() if key not in ("stage", "calibration")}
        calibration, stages = data.get("calibration", {}), data.get("stage", [])
        if not isinstance(stages, list):
            raise RecipeError(
                f"stage={stages!r}",
                allowed='tables that begin with [[stage]] and hold method = "..."',
                do="Write [[stage]] in place of [stage]" if isinstance(stages, Mapping) else None,
            )
        return cls(
            **_converted(values),
            calibration=CalibrationSpec(**calibration),
            stages=tuple(map(_stage, stages)),
        )

    @property
    def model_name(self) -> str:
        """The model without its path: a hub id as it is, the last part of a folder or a file."""
        return self.model if not Path(self.model).exists() else Path(self.model).resolve().name

    def step(self, number: int, model: str, output: str) -> Recipe:
        """Returns the recipe of stage `number` (from 0) alone.

        Args:
            number: which stage.
            model: its input: the model of the recipe, or the checkpoint that the stage before it wrote.
            output: its output folder.
        """
        stage = self.stages[number]
        return dataclasses.replace(
            self,
            model=model,
            revision=self.revision if number == 0 else None,
            keep_codes=self.keep_codes and number == 0,
            output=output,
            stages=(dataclasses.replace(stage, calibration={}),),
            calibration=dataclasses.replace(self.calibration, **stage.calibration),
        )

    def identity(self) -> dict[str, Any]:
        """Returns the settings that the output bytes depend on, as JSON values; the output folder and the evaluation
        are none of them."""
        assert len(self.stages) == 1, "a checkpoint is the result of one stage; see `step`"
        return {
            "stages": [stage.identity() for stage in self.stages],
            "calibration": self.calibration.identity(),
            "skip": list(self.skip),
            "max_shard_size": self.max_shard_size,
            **({} if self.engine is None else {"engine": self.engine}),
            **({} if self.forward_dtype == "auto" else {"forward_dtype": self.forward_dtype}),
            **({"keep_codes": True} if self.keep_codes else {}),
        }


RECIPE_OPTIONS = tuple(f.name for f in dataclasses.fields(Recipe) if f.name not in ("stages", "calibration"))
"""Settings of a run: fields of Recipe."""
CALIBRATION_OPTIONS = {
    "calibration" if f.name == "source" else f.name: f.name for f in dataclasses.fields(CalibrationSpec)
}
"""Settings of the calibration data: option -> field of CalibrationSpec."""
STAGE_OPTIONS = tuple(
    f.name for f in dataclasses.fields(StageSpec) if f.name not in ("method", "options", "calibration")
)
"""Settings of a stage that every method has: fields of StageSpec."""

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "str": ((str,), "text"),
    "int": ((int,), "an integer"),
    "float": ((int, float), "a number"),
    "tuple[str, ...]": ((tuple,), "a list of text"),
}
"""Annotation of a field -> the types its value may have, and their name in an error."""


def _check_types(prefix: str, spec: Any) -> None:
    """Raises RecipeError for a field of a wrong type, such as a file may hold; turns paths into text."""
    for spec_field in dataclasses.fields(spec):
        annotation, _, optional = str(spec_field.type).partition(" | ")
        value = getattr(spec, spec_field.name)
        if annotation not in _TYPES or (optional and value is None):
            continue
        types, allowed = _TYPES[annotation]
        if str in types and isinstance(value, os.PathLike):
            value = os.fspath(value)
            object.__setattr__(spec, spec_field.name, value)
        texts = value if isinstance(value, tuple) else (value,)
        right = isinstance(value, types) and not isinstance(value, bool)
        if not right or (tuple in types and not all(isinstance(text, str) for text in texts)):
            raise RecipeError(f"{prefix}{spec_field.name}={value!r}", allowed=allowed)
        if any(isinstance(text, str) and "\0" in text for text in texts):
            raise RecipeError(f"{prefix}{spec_field.name}={value!r}", allowed=f"{allowed} without null characters")


def _end_bits(name: str, bits: Any) -> EndBits:
    """Returns the bits of an end with `none` as None; RecipeError for anything but 2 to 8, `none` and `auto`."""
    if bits in (None, "none"):
        return None
    if bits != AUTO and not (isinstance(bits, int) and not isinstance(bits, bool) and 2 <= bits <= 8):
        raise RecipeError(f"{name}={bits!r}", allowed="2 to 8, or none")
    kept: EndBits = bits
    return kept


def _converted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns fields of a Recipe with the short forms written out: a size as text, one glob, a list of globs."""
    converted = dict(values)
    if isinstance(skip := converted.get("skip"), (str, list)):
        converted["skip"] = (skip,) if isinstance(skip, str) else tuple(skip)
    for name in ("max_memory", "max_shard_size"):
        if isinstance(size := converted.get(name), str):
            converted[name] = parse_size(size)
    return converted


def _json_values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options with infinity as text, since JSON has no number for it."""
    return {name: str(value) if value in (math.inf, -math.inf) else value for name, value in options.items()}


def digest(value: Any) -> str:
    """Returns the sha256 (hex) of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _stage(data: Any) -> StageSpec:
    if not isinstance(data, Mapping) or "method" not in data:
        raise RecipeError("a [[stage]] lacks its method", do='Write method = "spqr" in it')
    fields = {f.name for f in dataclasses.fields(StageSpec)} - {"options"}
    options = {key: value for key, value in data.items() if key not in fields}
    return StageSpec(options=options, **{key: value for key, value in data.items() if key in fields})
