"""Returns the results of a run as plain data, which `compress run --json` prints. The items are in eval.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.report import manifest as manifests

if TYPE_CHECKING:
    from compress.evaluation.result import EvalResult


def of_checkpoint(checkpoint: Path, manifest: Mapping[str, Any], evaluation: EvalResult | None) -> dict[str, Any]:
    """Returns the figures of the table unrounded; those that are not known are None.

    Without an evaluation `evaluation` is None.
    """
    manifest = manifests.checked(manifest)
    return {
        "checkpoint": str(checkpoint),
        "size_bytes": sum(shard["size_bytes"] for shard in manifest["shards"]),
        "source_size_bytes": manifest.get("source", {}).get("size_bytes"),
        "bits_per_weight": manifest.get("bits_per_weight"),
        "coverage": manifest.get("coverage"),
        "warnings": manifest.get("warnings", []),
        "evaluation": None if evaluation is None else of_evaluation(evaluation),
    }


def of_evaluation(evaluation: EvalResult) -> dict[str, Any]:
    """Returns scores, and with a baseline the paired differences."""
    baseline, paired = evaluation.baseline, evaluation.comparison
    return {
        "suite": dict(evaluation.suite),
        "perplexity": evaluation.text.perplexity,
        "baseline_perplexity": None if baseline is None else baseline.text.perplexity,
        "divergence": None if evaluation.divergence is None else dataclasses.asdict(evaluation.divergence),
        "scores": {name: family.score for name, family in evaluation.families.items()},
        "paired": None
        if paired is None
        else {name: dataclasses.asdict(family) for name, family in paired.families.items()},
    }
