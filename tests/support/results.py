"""A small evaluation with a baseline, and points of a frontier, made by hand, for the tests of the reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from compress.evaluation.pairing import compare
from compress.evaluation.result import Divergence, EvalResult, FamilyResult, ItemOutcome, TextResult


def dense_and_packed() -> tuple[EvalResult, EvalResult]:
    """Returns the dense result, and the packed one that carries it as its baseline: of 10 factoids 3 lost, 1 gained."""
    dense = _result("atlas", [1, 1, 1, 1, 1, 1, 1, 1, 0, 0], nll=1.0)
    packed = _result("runs/atlas-spqr", [0, 0, 0, 1, 1, 1, 1, 1, 1, 0], nll=1.05)
    divergence = Divergence(mean=0.0123, low=0.0101, high=0.0149, p99=0.31, same_top1=0.972, tokens=4096)
    return dense, replace(packed, divergence=divergence, comparison=compare(dense, packed), baseline=dense)


def point(label: str, column: str, bits: float, kl: float, factoid: float = 0.9) -> dict[str, Any]:
    """Returns a point of a frontier, as its JSON file has it."""
    return {
        "label": label, "column": column, "bits_per_weight": bits, "size_bytes": 1_000_000,
        "kl": {"mean": kl, "low": 0.9 * kl, "high": 1.1 * kl}, "perplexity": 2 + kl, "scores": {"factoid": factoid},
        "differences": {"factoid": {"difference": factoid - 0.95, "low": -0.1, "high": 0.0}},
    }  # fmt: skip


def _result(name: str, outcomes: list[int], nll: float) -> EvalResult:
    items = [
        ItemOutcome(str(index), float(outcome), {"question": str(outcome)}, "prompt", {"hit": float(outcome)})
        for index, outcome in enumerate(outcomes)
    ]
    families = {family: FamilyResult(family, "hit", "binary", 0.0, items) for family in ("factoid", "multiple_choice")}
    return EvalResult(
        suite={"name": "kick-atlas", "version": 1, "items_sha256": "0" * 64},
        model={"name": name},
        settings={},
        libraries={},
        families=families,
        text=TextResult(nll_per_token=nll, bits_per_byte=0.5, tokens=4096, bytes=16384, windows=16),
    )
