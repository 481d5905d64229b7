"""Evaluations made by hand, for the tests of the gate."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from compress.evaluation.result import Divergence, EvalResult, FamilyResult, ItemOutcome, TextResult

CHANCE = {"factoid": 0.0, "multiple_choice": 0.25}


def family(
    name: str = "factoid",
    n: int = 400,
    score: float = 0.8,
    *,
    lost: int = 0,
    gained: int = 0,
    empty: int = 0,
    **changes: Any,
) -> FamilyResult:
    """A family of n items, of which the first share `score` is right; `lost` of those fall and `gained` others rise.

    `empty` answers are empty (and wrong), the last right ones first. `changes` are fields of every item.
    """
    right = round(n * score)
    outcomes = [1.0] * right + [0.0] * (n - right)
    outcomes[:lost] = [0.0] * lost
    outcomes[right : right + gained] = [1.0] * gained
    for index in range(empty):
        outcomes[right - 1 - index] = 0.0
    blank = range(right - empty, right)
    items = [
        ItemOutcome(
            **{
                "id": f"{name}/{index}", "outcome": outcome,
                "answers": {"answer": "" if index in blank else str(outcome)},
                "prompt_hash": "p", "metrics": {"hit": outcome, "empty": float(index in blank)}, **changes,
            }
        )
        for index, outcome in enumerate(outcomes)
    ]  # fmt: skip
    return FamilyResult(name, "hit", "binary", CHANCE.get(name, 0.0), items)


def shares(name: str = "summarisation", n: int = 300, change: float = 0.0, spread: float = 0.1) -> FamilyResult:
    """A family with outcomes between 0 and 1, all of them shifted by `change` and by seeded noise."""
    rng, noise = random.Random(0), random.Random(1)
    items = []
    for index in range(n):
        before = rng.uniform(0.4, 0.9)
        after = before + (change + noise.uniform(-spread, spread) if change or spread else 0.0)
        outcome = min(1.0, max(0.0, after))
        items.append(ItemOutcome(f"{name}/{index}", outcome, {"summary": f"{outcome}"}, "p", {"kept": outcome}))
    return FamilyResult(name, "kept", "continuous", 0.0, items)


def result(*families: FamilyResult, name: str = "dense", suite: str = "kick-atlas", **changes: Any) -> EvalResult:
    """An evaluation of these families."""
    made: Mapping[str, Any] = {
        "suite": {"name": suite, "version": 1, "items_sha256": "0" * 64},
        "model": {"name": name, "kind": "dense", "fingerprint": name, "dtype": "float32"},
        "settings": {"limit": None, "batch_size": 32, "device": "cpu"},
        "libraries": {"torch": "2.13.0"},
        "families": {family.name: family for family in families},
        "text": TextResult(nll_per_token=1.0, bits_per_byte=0.5, tokens=4096, bytes=16384, windows=16),
    }
    return EvalResult(**{**made, **changes})


def divergence(mean: float = 0.01) -> Divergence:
    """A divergence with an interval of a tenth either way."""
    return Divergence(mean=mean, low=0.9 * mean, high=1.1 * mean, p99=10 * mean, same_top1=0.98, tokens=4096)
