"""Reads the informational fields of a manifest for reports: checked, and combined over the stages of a run.

docs/FORMAT.md says which fields of compress.json a reader needs; all others may be missing. `checked` leaves out those
that have an unusable type as well, with a warning, so the rest of `compress.report` meets well-typed fields only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from compress.methods import registry

Shape = Any
"""How a value must look: one of the constants below, a dict of fields, `Each` for every value of an object, or a list
with the shape of every element. Fields that a dict does not name are kept as they are."""
TEXT, COUNT, NUMBER, OBJECT = "a text", "a whole number", "a number", "an object"
_WARNINGS_SHOWN = 5


class Each:
    """The shape of every value of an object with free keys."""

    def __init__(self, shape: Shape):
        self.shape = shape


_RECIPE = {
    "stages": [{"method": TEXT, "options": OBJECT, "tune": TEXT, "target_bits": NUMBER}],
    "calibration": {"source": TEXT, "samples": COUNT, "seq_len": COUNT, "seed": COUNT},
    "skip": [TEXT],
}
_SOURCE = {"model": TEXT, "revision": TEXT, "fingerprint": TEXT, "size_bytes": COUNT, "parameters": COUNT}
_MANIFEST = {
    "compress_version": TEXT,
    "source": _SOURCE,
    "history": [{"source": _SOURCE, "recipe": _RECIPE}],
    "teacher": TEXT,
    "pruning": {"units": Each({"before": COUNT, "after": COUNT, "importance_lost": NUMBER})},
    "training": OBJECT,
    "tuning": {"did": Each({"before": NUMBER, "after": NUMBER})},
    "allocation": OBJECT,
    "recipe": _RECIPE,
    "recipe_hash": TEXT,
    "libraries": Each(TEXT),
    "bits_per_weight": NUMBER,
    "coverage": {
        "total_parameters": COUNT,
        "share_of_linears": NUMBER,
        "share_of_model": NUMBER,
        "removed_parameters": COUNT,
        "share_removed": NUMBER,
        "left_dense": Each(COUNT),
    },
    "warnings": [TEXT],
    "tensors": Each(
        {
            "method": TEXT,
            "bits_per_weight": NUMBER,
            "size_bytes": COUNT,
            "relative_error": NUMBER,
            "error_of": TEXT,
            "outliers": COUNT,
            "tokens": COUNT,
        }
    ),
}
_NEEDED_TOGETHER = {"stages": ("method",), "units": ("before", "after"), "did": ("before", "after")}
"""Entries of these that lack one of the fields say nothing and are left out."""


def checked(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest without informational fields of an unusable type, and with a warning for them.

    A field that is null counts as missing. What comes back is returned unchanged by a second call.
    """
    problems: list[str] = []
    result: dict[str, Any] = _checked(manifest, _MANIFEST, "", problems)
    if problems:
        more = f", and {len(problems) - _WARNINGS_SHOWN} more" if len(problems) > _WARNINGS_SHOWN else ""
        warning = f"compress.json: left out {'; '.join(problems[:_WARNINGS_SHOWN])}{more}"
        result["warnings"] = [*result.get("warnings", ()), warning]
    return result


def _checked(value: Any, shape: Shape, path: str, problems: list[str]) -> Any:
    """Returns the value without what has another shape, or None for a value that has one itself."""
    if isinstance(shape, str):
        return value if _is(value, shape) else _problem(value, shape, path, problems)
    if isinstance(shape, list):
        if not isinstance(value, list | tuple):
            return _problem(value, "a list", path, problems)
        items = (_checked(item, shape[0], f"{path}[{i}]", problems) for i, item in enumerate(value))
        return [item for item in items if _is_whole(item, path, problems)]
    if not isinstance(value, Mapping):
        return _problem(value, OBJECT, path, problems)
    shapes = dict.fromkeys(value, shape.shape) if isinstance(shape, Each) else shape
    result = {}
    for key, item in value.items():
        where = f"{path}.{key}" if path else str(key)
        if key in shapes:
            if item is None:
                continue
            item = _checked(item, shapes[key], where, problems)
            if isinstance(shape, Each) and not _is_whole(item, path, problems):
                continue
            if item is None:
                continue
        elif not _is_finite(item):
            problems.append(f"{where} (it holds a number that is not finite)")
            continue
        result[key] = item
    return result


def _is_finite(value: Any) -> bool:
    """Returns whether no number inside is NaN or infinite: JSON has no such numbers, but Python reads them."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _is(value: Any, shape: str) -> bool:
    if shape == TEXT:
        return isinstance(value, str)
    if shape == OBJECT:
        return isinstance(value, Mapping) and _is_finite(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if shape == NUMBER else isinstance(value, int) and value >= 0


def _problem(value: Any, wanted: str, path: str, problems: list[str]) -> None:
    shown = repr(value)
    problems.append(f"{path} ({shown if len(shown) <= 40 else shown[:40] + '…'} is not {wanted})")


def _is_whole(item: Any, path: str, problems: list[str]) -> bool:
    """Returns whether an element can be used; one that lacks a field it is useless without is a problem."""
    if item is None:
        return False
    missing = [name for name in _NEEDED_TOGETHER.get(path.rpartition(".")[2], ()) if name not in item]
    if missing:
        problems.append(f"an entry of {path} (it has no {' and no '.join(missing)})")
    return not missing


def origin(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the `source` of the first stage: the dense model that the run began with."""
    first = (*manifest.get("history", ()), manifest)[0]
    source: Mapping[str, Any] = first.get("source", {})
    return source


def recipes(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the recipes of all stages, first to last; an empty one where it is missing."""
    return [stage.get("recipe", {}) for stage in (*manifest.get("history", ()), manifest)]


def stages(manifest: Mapping[str, Any], always: Collection[str] = ()) -> list[dict[str, Any]]:
    """Returns `method`, `options` (all) and `unusual` (those that are not the default) of every stage.

    Options named in `always` count as unusual at their default too.
    """
    return [_stage(stage, always) for recipe in recipes(manifest) for stage in recipe.get("stages", ())]


def _stage(stage: Mapping[str, Any], always: Collection[str]) -> dict[str, Any]:
    options = dict(stage.get("options", {}))
    # the method of a checkpoint that was made elsewhere need not be installed here
    defaults = registry.defaults(stage["method"]) if stage["method"] in registry.names() else {}
    extra = {name: stage[name] for name in ("tune", "target_bits") if stage.get(name) is not None}
    unusual = {name: v for name, v in options.items() if name in always or (name, v) not in defaults.items()}
    return {"method": stage["method"], "options": {**options, **extra}, "unusual": {**unusual, **extra}}


def sizes(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns bytes, parameters and bits per weight before and after; None for what is not known."""
    stored = sum(shard["size_bytes"] for shard in manifest["shards"])
    dense = origin(manifest).get("size_bytes")
    parameters = manifest.get("coverage", {}).get("total_parameters")
    dense_parameters = origin(manifest).get("parameters") or parameters
    return {
        "dense_bytes": dense,
        "bytes": stored,
        "times_smaller": dense / stored if dense is not None and stored else None,
        "dense_parameters": dense_parameters,
        "parameters": parameters,
        "dense_bits_per_weight": 8 * dense / dense_parameters if dense and dense_parameters else None,
        "bits_per_weight_linears": manifest.get("bits_per_weight"),
        "bits_per_weight_model": 8 * stored / parameters if parameters else None,
    }
