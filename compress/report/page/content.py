"""Collects the content of a report as plain data, unrounded; HTML, markdown and JSON all show this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

from compress import __version__, rerun
from compress.evaluation.above_chance import cannot_tell
from compress.evaluation.result import recovery
from compress.methods import registry
from compress.report import manifest as manifests
from compress.report.page import items as lost_items
from compress.report.page import layers
from compress.report.page.sources import Run, Sources

if TYPE_CHECKING:
    from compress.bench.speed import Speed
    from compress.evaluation.result import EvalResult, FamilyComparison, FamilyResult, Judgement

SCHEMA_VERSION = 1
_PARTS = ("pruning", "training", "tuning", "allocation")
"""Sections of a manifest that describe the work of one stage."""


def build(
    sources: Sources, items: int = 6, data_dir: str | None = None, title: str | None = None, notes: str | None = None
) -> dict[str, Any]:
    """Returns the content: `title`, `notes`, `runs` (see `of_run`) and `frontiers` as they are in their files.

    Args:
        sources: the runs and frontiers to report on.
        items: number of lost items shown of each family.
        data_dir: folder with the public data of the suite, for questions that the evaluation did not keep.
        title: title of the report; made from the models when None.
        notes: notes on the whole report, in markdown.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "compress_version": __version__,
        "title": title,
        "notes": notes,
        "runs": [of_run(run, items, data_dir) for run in sources.runs],
        "frontiers": [dict(frontier) for frontier in sources.frontiers],
    }


def of_run(run: Run, items: int = 6, data_dir: str | None = None) -> dict[str, Any]:
    """Returns the content of one run: `name`, `model`, `did` (its stages), `warnings`, and its parts.

    Parts that a run does not have are None. From the manifest: `size`, `layers`, `made`. From the evaluation: `text`,
    `families`, `samples`, `lost`, `asked`. From run.json: `finished`, `seconds`, `machine`. `rerun` is the command that
    repeats the run, and the recipe file that it names. `notes` are those of the folder. `gate` is the gate's verdict
    (docs/GATE.md), `speed` the result of `compress bench`, `chats` the saved conversations of
    `compress chat`.
    """
    manifest, evaluation = None if run.manifest is None else manifests.checked(run.manifest), run.evaluation
    samples, lost = ([], None) if evaluation is None else lost_items.of_evaluation(evaluation, items, data_dir)
    record = run.record or {}
    warnings = [
        *run.warnings,
        *(() if manifest is None else manifest.get("warnings", ())),
        *(() if evaluation is None else evaluation.warnings),
    ]
    return {
        "name": run.name,
        "model": _model(manifest, evaluation),
        "did": [] if manifest is None else manifests.stages(manifest, always=("bits",)),
        "warnings": warnings,
        "notes": run.notes,
        "finished": record.get("finished"),
        "seconds": record.get("seconds"),
        "machine": record.get("machine"),
        "rerun": None if manifest is None else _rerun(manifest, evaluation, run.record),
        "size": None if manifest is None else manifests.sizes(manifest),
        "speed": None if run.speed is None else _speed(run.speed),
        "text": None if evaluation is None else _text(evaluation),
        "families": None if evaluation is None else _families(evaluation),
        "samples": samples,
        "lost": lost,
        "asked": None if evaluation is None else _asked(evaluation),
        "chats": _plain(run.chats),
        "gate": run.gate,
        "layers": None if manifest is None else layers.grid(manifest),
        "made": None if manifest is None else _made(manifest),
    }


def _rerun(
    manifest: Mapping[str, Any], evaluation: EvalResult | None, record: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    asked = None if evaluation is None else {"suite": evaluation.suite, "settings": evaluation.settings}
    again = rerun.of(manifest, asked, None if record is None else record.get("settings", {}))
    return None if again is None else asdict(again)


def _model(manifest: Mapping[str, Any] | None, evaluation: EvalResult | None) -> str:
    if manifest is not None:
        return str(manifests.origin(manifest).get("model", "model"))
    assert evaluation is not None, "a run has a manifest or an evaluation"
    model = evaluation.model if evaluation.baseline is None else evaluation.baseline.model
    return str(model["name"])


def _reads_data(stage: Mapping[str, Any]) -> bool:
    """Returns whether a stage reads calibration tokens; a method that is not installed here is taken to."""
    method = stage["method"]
    known = method in registry.names()
    return not known or registry.describe(method).needs_data or bool(stage.get("tune") or stage.get("target_bits"))


def _speed(speed: Speed) -> dict[str, Any]:
    """Returns all measurements, with `dtype`, in which the checkpoint decodes fastest, and `dense_dtype` likewise."""
    dtype, best = speed.fastest()
    dense = max(speed.dense.items(), key=lambda item: item[1].decode_tokens_per_s, default=(None, None))
    return {
        **_plain(asdict(speed)),
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
    """Returns the data as JSON would give it back: tuples become lists."""
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list | tuple) else data


def _families(evaluation: EvalResult) -> list[dict[str, Any]]:
    paired = evaluation.comparison.families if evaluation.comparison else {}
    return [_family(family, evaluation, paired.get(name)) for name, family in evaluation.families.items()]


def _family(family: FamilyResult, evaluation: EvalResult, paired: FamilyComparison | None) -> dict[str, Any]:
    """Returns the score of a family, and with a baseline the paired difference with its interval."""
    dense = None if evaluation.baseline is None else evaluation.baseline.families[family.name]
    return {
        "name": family.name,
        "items": len(family.items),
        "left_out": family.left_out,
        "primary": family.primary,
        "kind": family.kind,
        "chance": family.chance,
        "score": family.score,
        "dense": None if dense is None else dense.score,
        "recovered": None if dense is None else recovery(dense, family),
        "cannot_tell": None if dense is None else cannot_tell(dense),
        "paired": None if paired is None else _plain({**asdict(paired), "flips": paired.flips}),
        "metrics": {
            name: {"score": value, "dense": None if dense is None else dense.metrics.get(name)}
            for name, value in family.metrics.items()
        },
    }


def _asked(evaluation: EvalResult) -> dict[str, Any]:
    """Returns the suite and the settings of an evaluation."""
    comparison, baseline = evaluation.comparison, evaluation.baseline
    return {
        "suite": dict(evaluation.suite),
        "model": dict(evaluation.model),
        "baseline": None if baseline is None else dict(baseline.model),
        "settings": dict(evaluation.settings),
        "libraries": dict(evaluation.libraries),
        "items": sum(len(family.items) for family in evaluation.families.values()),
        "confidence": None if comparison is None else comparison.confidence,
        "judgement": None if evaluation.judgement is None else _judgement(evaluation.judgement),
    }


def _judgement(judgement: Judgement) -> dict[str, Any]:
    """Returns the verdict of a judging model, without its items."""
    return {
        "judge": judgement.judge,
        "repeats": judgement.repeats,
        "items": len(judgement.items),
        "score": judgement.score,
        "consistent": judgement.consistent,
    }


def _made(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how the checkpoint was made, for a reader who wants to make it again."""
    recipes, origin = manifests.recipes(manifest), manifests.origin(manifest)
    reading = [recipe for recipe in recipes if any(map(_reads_data, recipe.get("stages", ())))]
    calibrations = [recipe["calibration"] for recipe in reading if recipe.get("calibration")]
    if manifest.get("calibration"):  # of the last stage: what its recipe's source came to
        calibrations.append(manifest["calibration"])
    return {
        "source": {key: origin.get(key) for key in ("model", "revision", "fingerprint")},
        "needs_data": bool(reading),
        "calibration": calibrations[-1] if calibrations else None,
        "skip": list(recipes[-1].get("skip", ())),
        "recipe_hash": manifest.get("recipe_hash"),
        "compress_version": manifest.get("compress_version"),
        "format_version": manifest["format_version"],
        "libraries": dict(manifest.get("libraries", {})),
        "coverage": manifest.get("coverage"),
        "parts": {name: _part(name, manifest[name]) for name in _PARTS if manifest.get(name)},
    }


def _part(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures that summarise a section; lists of units, sets and steps stay in the manifest."""
    figures = {key: value for key, value in section.items() if isinstance(value, str | int | float | bool)}
    if name == "tuning" and (blocks := list(section.get("did", {}).values())):
        gains = [1 - block["after"] / block["before"] for block in blocks if block["before"]]
        figures |= {"blocks": len(blocks), **({"mean_share_of_error_removed": fmean(gains)} if gains else {})}
    return figures
