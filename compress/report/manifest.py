"""Reads the informational fields of a manifest for reports: checked, and combined over the stages of a run.

docs/FORMAT.md says which fields of compress.json a reader needs; all others may be missing. `checked` leaves out those
that have an unusable type as well, with a warning, so the rest of `compress.report` meets well-typed fields only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from compress.methods import registry
from compress.report import shapes
from compress.report.shapes import COUNT, NUMBER, OBJECT, TEXT, Each, Fields

_WARNINGS_SHOWN = 5
_RECIPE = {
    "stages": [
        Fields(
            {"method": TEXT, "options": OBJECT, "tune": TEXT, "kv_cache": TEXT, "target_bits": NUMBER},
            needed=("method",),
        )
    ],
    "calibration": {"source": TEXT, "samples": COUNT, "seq_len": COUNT, "seed": COUNT},
    "skip": [TEXT],
}
_SOURCE = {"model": TEXT, "revision": TEXT, "fingerprint": TEXT, "size_bytes": COUNT, "parameters": COUNT}
_UNIT = Fields({"before": COUNT, "after": COUNT, "importance_lost": NUMBER}, needed=("before", "after"))
_MANIFEST = {
    "compress_version": TEXT,
    "source": _SOURCE,
    "history": [{"source": _SOURCE, "recipe": _RECIPE}],
    "teacher": TEXT,
    "pruning": {"units": Each(_UNIT)},
    "training": OBJECT,
    "tuning": {"did": Each(Fields({"before": NUMBER, "after": NUMBER}, needed=("before", "after")))},
    "allocation": OBJECT,
    "recipe": _RECIPE,
    "calibration": {"source": TEXT, "reason": TEXT, "samples": COUNT, "seq_len": COUNT, "seed": COUNT},
    "recipe_hash": TEXT,
    "libraries": Each(TEXT),
    "bits_per_weight": NUMBER,
    "coverage": {
        "total_parameters": COUNT,
        "share_of_linears": NUMBER,
        "share_of_model": NUMBER,
        "removed_parameters": COUNT,
        "share_removed": NUMBER,
        "packed_outside_blocks": Each(COUNT),
        "left_dense": Each(COUNT),
    },
    "warnings": [TEXT],
    "tensors": Each(
        {
            "role": TEXT,
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


def checked(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest without informational fields of an unusable type, and with a warning for them.

    A field that is null counts as missing. What comes back is returned unchanged by a second call.
    """
    result, problems = shapes.checked(manifest, _MANIFEST)
    if problems:
        more = f", and {len(problems) - _WARNINGS_SHOWN} more" if len(problems) > _WARNINGS_SHOWN else ""
        warning = f"compress.json: left out {'; '.join(problems[:_WARNINGS_SHOWN])}{more}"
        result["warnings"] = [*result.get("warnings", ()), warning]
    return result


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
    extra = {name: stage[name] for name in ("tune", "kv_cache", "target_bits") if stage.get(name) is not None}
    unusual = {name: v for name, v in options.items() if name in always or (name, v) not in defaults.items()}
    return {"method": stage["method"], "options": {**options, **extra}, "unusual": {**unusual, **extra}}


def sizes(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns bytes, parameters and bits per weight before and after; unknown values are None."""
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
