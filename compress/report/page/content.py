"""The content of a report as plain data: what every form of it (HTML, markdown, JSON) shows, not rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

from compress import __version__
from compress.methods import registry
from compress.report.page import items as lost_items
from compress.report.page import layer_grid
from compress.report.page.sources import Run, Sources

if TYPE_CHECKING:
    from compress.bench.speed import Speed
    from compress.evaluation.result import EvalResult, FamilyComparison, FamilyResult

SCHEMA_VERSION = 1


def build(sources: Sources, items: int = 6, data_dir: str | None = None) -> dict[str, Any]:
    """Returns the content: `runs` (each as `of_run` says) and `frontiers` as they stand in their files.

    Args:
        sources: what is reported on.
        items: how many lost items of each family are shown.
        data_dir: folder of the public data that a suite asks, for its questions.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "compress_version": __version__,
        "runs": [of_run(run, items, data_dir) for run in sources.runs],
        "frontiers": [dict(frontier) for frontier in sources.frontiers],
    }


def of_run(run: Run, items: int = 6, data_dir: str | None = None) -> dict[str, Any]:
    """Returns one run: what it is (`name`, `model`, `did`), and its parts, None where it has no such thing.

    Parts of the manifest: `size`, `layers`, `made`. Parts of the evaluation: `text`, `families`, `lost`, `asked`.
    `gate` is the verdict that lies beside them (docs/GATE.md), `speed` what `compress bench` measured.
    """
    manifest, evaluation = run.manifest, run.evaluation
    told = () if evaluation is None else evaluation.warnings
    warnings = [*run.warnings, *(manifest or {}).get("warnings", ()), *told]
    return {
        "name": run.name,
        "model": _model(run),
        "did": [] if manifest is None else [_stage(stage) for recipe in recipes(manifest) for stage in _stages(recipe)],
        "warnings": warnings,
        "size": None if manifest is None else _size(manifest),
        "speed": None if run.speed is None else _speed(run.speed),
        "text": None if evaluation is None else _text(evaluation),
        "families": None if evaluation is None else _families(evaluation),
        "lost": None if evaluation is None else lost_items.lost(evaluation, items, data_dir),
        "asked": None if evaluation is None else _asked(evaluation),
        "gate": run.gate,
        "layers": None if manifest is None else layer_grid.grid(manifest),
        "made": None if manifest is None else _made(manifest),
    }


def recipes(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the recipes of all stages, first to last."""
    before = [stage.get("recipe") or {} for stage in manifest.get("history", ())]
    return [*before, manifest.get("recipe") or {}]


def _stages(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(recipe.get("stages", ()))


def _origin(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the manifest says of the model that the first stage began with."""
    first = (*manifest.get("history", ()), manifest)[0]
    return first.get("source") or {}


def _model(run: Run) -> str:
    if run.manifest is not None:
        return str(_origin(run.manifest).get("model", "model"))
    assert run.evaluation is not None, "a run has a manifest or an evaluation"
    model = run.evaluation.model if run.evaluation.baseline is None else run.evaluation.baseline.model
    return str(model["name"])


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage with all its options, and those that tell it from others: `bits`, and what is not the default."""
    options = dict(stage.get("options", {}))
    usual = registry.defaults(stage["method"]) if stage["method"] in registry.names() else {}
    extra = {name: stage[name] for name in ("tune", "target_bits") if stage.get(name) is not None}
    told = {name: v for name, v in options.items() if name == "bits" or (name, v) not in usual.items()}
    return {"method": stage["method"], "options": {**options, **extra}, "unusual": {**told, **extra}}


def _reads_data(stage: Mapping[str, Any]) -> bool:
    """Whether a stage looks at calibration tokens; of a method that is not known here it is taken to."""
    method = stage["method"]
    known = method in registry.names()
    return not known or registry.describe(method).needs_data or bool(stage.get("tune") or stage.get("target_bits"))


def _size(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes and bits before and after; what is not known is None."""
    stored = sum(shard["size_bytes"] for shard in manifest["shards"])
    origin, coverage = _origin(manifest), manifest.get("coverage") or {}
    dense, left = origin.get("size_bytes"), coverage.get("total_parameters")
    before = origin.get("parameters") or left
    return {
        "dense_bytes": dense,
        "bytes": stored,
        "times_smaller": None if dense is None else dense / stored,
        "dense_parameters": before,
        "parameters": left,
        "dense_bits_per_weight": 8 * dense / before if dense and before else None,
        "bits_per_weight_linears": manifest.get("bits_per_weight"),
        "bits_per_weight_model": 8 * stored / left if left else None,
    }


def _speed(found: Speed) -> dict[str, Any]:
    """What was measured; `dtype` is that in which the checkpoint decodes fastest, `dense_dtype` the dense model's."""
    dtype, best = found.fastest()
    dense = max(found.dense.items(), key=lambda item: item[1].decode_tokens_per_s, default=(None, None))
    return {
        **_plain(asdict(found)),
        "dtype": dtype,
        "dense_dtype": dense[0],
        "times_faster": None if dense[1] is None else best.decode_tokens_per_s / dense[1].decode_tokens_per_s,
    }


def _text(evaluation: EvalResult) -> dict[str, Any]:
    baseline, kl = evaluation.baseline, evaluation.divergence
    return {
        "perplexity": evaluation.text.perplexity,
        "dense_perplexity": None if baseline is None else baseline.text.perplexity,
        "bits_per_byte": evaluation.text.bits_per_byte,
        "tokens": evaluation.text.tokens,
        "divergence": None if kl is None else _plain(asdict(kl)),
    }


def _plain(data: Any) -> Any:
    """Data as JSON gives it back: tuples are lists."""
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list | tuple) else data


def _families(evaluation: EvalResult) -> list[dict[str, Any]]:
    paired = evaluation.comparison.families if evaluation.comparison else {}
    return [_family(family, evaluation, paired.get(name)) for name, family in evaluation.families.items()]


def _family(family: FamilyResult, evaluation: EvalResult, paired: FamilyComparison | None) -> dict[str, Any]:
    """One family: its score, and where there is a baseline the paired difference with its interval."""
    before = evaluation.baseline.families[family.name] if evaluation.baseline is not None else None
    dense = None if before is None else before.score
    above = None if dense is None else dense - family.chance
    return {
        "name": family.name,
        "items": len(family.items),
        "left_out": family.left_out,
        "primary": family.primary,
        "kind": family.kind,
        "chance": family.chance,
        "score": family.score,
        "dense": dense,
        "recovered": (family.score - family.chance) / above if above and above > 0 else None,
        "paired": None if paired is None else _plain({**asdict(paired), "flips": paired.flips}),
        "metrics": {
            name: {"score": value, "dense": None if before is None else before.metrics.get(name)}
            for name, value in family.metrics.items()
        },
    }


def _asked(evaluation: EvalResult) -> dict[str, Any]:
    """With what the suite was asked."""
    comparison, baseline = evaluation.comparison, evaluation.baseline
    return {
        "suite": dict(evaluation.suite),
        "model": dict(evaluation.model),
        "baseline": None if baseline is None else dict(baseline.model),
        "settings": dict(evaluation.settings),
        "libraries": dict(evaluation.libraries),
        "items": sum(len(family.items) for family in evaluation.families.values()),
        "confidence": None if comparison is None else comparison.confidence,
        "judgement": _judgement(evaluation),
    }


def _judgement(evaluation: EvalResult) -> dict[str, Any] | None:
    """What a judging model thought, without its items."""
    found = evaluation.judgement
    if found is None:
        return None
    told = {"judge": found.judge, "repeats": found.repeats, "items": len(found.items)}
    return {**told, "score": found.score, "consistent": found.consistent}


def _made(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """How the checkpoint was made, for a reader who wants to make it again."""
    reading = [recipe for recipe in recipes(manifest) if any(map(_reads_data, _stages(recipe)))]
    data = [recipe["calibration"] for recipe in reading if recipe.get("calibration")]
    origin = _origin(manifest)
    return {
        "source": {key: origin.get(key) for key in ("model", "revision", "fingerprint")},
        "needs_data": bool(reading),
        "calibration": data[-1] if data else None,
        "skip": list((manifest.get("recipe") or {}).get("skip", ())),
        "recipe_hash": manifest.get("recipe_hash"),
        "compress_version": manifest.get("compress_version"),
        "format_version": manifest["format_version"],
        "libraries": dict(manifest.get("libraries") or {}),
        "coverage": manifest.get("coverage"),
        "parts": {name: _told(name, manifest[name]) for name in _PARTS if manifest.get(name)},
    }


_PARTS = ("pruning", "training", "tuning", "allocation")


def _told(part: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a part that stand for the whole of it; lists of units, sets and steps are left in the manifest."""
    plain = {key: value for key, value in found.items() if isinstance(value, str | int | float | bool)}
    if part == "tuning" and (blocks := list((found.get("did") or {}).values())):
        gains = [1 - block["after"] / block["before"] for block in blocks if block.get("before")]
        plain |= {"blocks": len(blocks), **({"mean_share_of_error_removed": fmean(gains)} if gains else {})}
    return plain
