"""Writes the command that repeats a run, from its manifest and its evaluation."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.methods import registry
from compress.recipe import AUTO, DEFAULT_END_BITS, CalibrationSpec, Recipe

RECIPE_FILE = "recipe.toml"
_CALIBRATION = {"source": "calibration"}
"""Fields of the calibration whose option has another name."""
_DEFAULTS = CalibrationSpec().identity()
_BUNDLED = "bundled"
_RECIPE_KEYS = ("engine", "forward_dtype", "keep_codes")
_ENDS = ("embedding_bits", "head_bits")
_STAGE_KEYS = ("tune", "target_bits", "kv_cache", *_ENDS)
_EVALUATION_KEYS = ("tier", "limit", "chat")


@dataclass(frozen=True, slots=True)
class Rerun:
    """What makes a checkpoint again."""

    command: str
    """One line for a shell."""
    recipe: str | None = None
    """The TOML file that the command names, for a run of several stages; None for one stage."""


def of(
    manifest: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Rerun | None:
    """Returns what repeats the run behind a manifest; None for a manifest without a recipe.

    Options at their default are left out. Where the run chose its calibration text (`auto`), the text is named that it
    chose, so that the repetition does not depend on whether the hub can be reached.

    Args:
        manifest: content of compress.json.
        evaluation: `suite` and `settings` of eval.json; None for a run without evaluation.
        settings: settings of the recipe as they were given, those at their default left out (`report.run_record`); None
            where they were not recorded, as by older versions. `evaluation` is then what is known of them.
    """
    recipes = [entry.get("recipe") or {} for entry in (*manifest.get("history", ()), manifest)]
    stages = [(recipe, stage) for recipe in recipes for stage in recipe.get("stages", ())]
    if not stages:
        return None
    first = (*manifest.get("history", ()), manifest)[0].get("source") or {}
    general: dict[str, Any] = {"model": first.get("model", "MODEL"), "revision": first.get("revision")}
    general |= {key: recipes[-1].get(key) for key in _RECIPE_KEYS} | {"skip": recipes[-1].get("skip")}
    general |= _evaluated(evaluation) if settings is None else settings
    general = {key: value for key, value in general.items() if value is not None and value != _default(key)}
    chosen = (manifest.get("calibration") or {}).get("source")
    texts = [_calibration(recipe, chosen) for recipe, _ in stages]
    if len(stages) == 1:
        return Rerun(_command(general, texts[0], stages[0][1]))
    command = shlex.join(["compress", "run", "--recipe", RECIPE_FILE])
    return Rerun(command, _toml(general, texts, [stage for _, stage in stages]))


def _default(key: str) -> Any:
    """Returns the default of a setting of the recipe; None where it is not to be left out."""
    if key == "model":
        return None
    value = Recipe.__dataclass_fields__[key].default
    return [] if key == "skip" else value


def _evaluated(evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the settings of the recipe that an evaluation tells."""
    if evaluation is None:
        return {"suite": "none"}
    told = {key: evaluation["settings"].get(key) for key in _EVALUATION_KEYS}
    if told["tier"] is not None:
        told["limit"] = None  # what the tier stands for
    if told["chat"] not in ("always", "never"):
        told["chat"] = None
    return {"suite": evaluation["suite"]["name"], **told}


def _calibration(recipe: Mapping[str, Any], chosen: str | None) -> dict[str, Any]:
    """Returns the settings of the calibration text of a stage that are not the default."""
    settings = dict(recipe.get("calibration") or {})
    if settings.get("source") == AUTO and chosen not in (None, _BUNDLED):
        settings["source"] = chosen
    return {key: value for key, value in settings.items() if _DEFAULTS.get(key) != value}


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings and options of a stage that are not the default, and its bits in any case."""
    known = stage["method"] in registry.names()
    defaults = registry.defaults(stage["method"]) if known else {}
    ends = DEFAULT_END_BITS if known and registry.describe(stage["method"]).packs else "none"
    settings = {key: stage[key] for key in _STAGE_KEYS if stage.get(key) is not None}
    settings = {key: value for key, value in settings.items() if key not in _ENDS or value != ends}
    options = dict(stage.get("options", {}))
    own = {key: value for key, value in options.items() if key == "bits" or (key, value) not in defaults.items()}
    return own | settings


def _command(general: Mapping[str, Any], calibration: Mapping[str, Any], stage: Mapping[str, Any]) -> str:
    words = ["compress", "run", str(general["model"]), "--method", str(stage["method"])]
    flags = {**_stage(stage), **{_CALIBRATION.get(key, key): value for key, value in calibration.items()}}
    rest = {key: value for key, value in general.items() if key != "model"}
    if rest.get("suite") == "none":
        del rest["suite"]
        words.append("--no-eval")
    for key, value in {**flags, **rest}.items():
        words += _flag("for" if key == "engine" else key, value)
    return shlex.join(words)


def _flag(key: str, value: Any) -> list[str]:
    name = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [name if value else f"--no-{name[2:]}"]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [word for each in value for word in (name, str(each))]
    return [name, "none" if value is None else str(value)]


def _toml(general: Mapping[str, Any], texts: Sequence[Mapping[str, Any]], stages: Sequence[Mapping[str, Any]]) -> str:
    """Returns a recipe file; the calibration text of the first stage stands for all, others name where they differ."""
    lines = [f"{key} = {_value(value)}" for key, value in general.items()]
    if texts[0]:
        lines += ["", "[calibration]", *_pairs(texts[0])]
    for text, stage in zip(texts, stages, strict=True):
        lines += ["", "[[stage]]", f"method = {_value(stage['method'])}", *_pairs(_stage(stage))]
        differs = [key for key in {**texts[0], **text} if text.get(key) != texts[0].get(key)]
        if differs:
            lines += ["", "[stage.calibration]", *_pairs({key: text.get(key, _DEFAULTS.get(key)) for key in differs})]
    return "\n".join(lines) + "\n"


def _pairs(settings: Mapping[str, Any]) -> list[str]:
    """Returns the lines of settings. TOML has no word for `none`, so such a setting becomes a comment."""
    return [f"# {key}: none" if value is None else f"{key} = {_value(value)}" for key, value in settings.items()]


def _value(value: Any) -> str:
    """Returns a value in TOML, which writes text, numbers, true, false and lists of text as JSON does."""
    return str(value) if value in ("inf", "-inf") else json.dumps(value, ensure_ascii=False)
