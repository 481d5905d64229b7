"""Asks a model the questions of the suite kick, paired with its dense original; prints one line of JSON.

    python knowledge.py DENSE MODEL DATA CACHE [--limit 100]

Only families that show a loss are asked: those where the dense model is above chance. Summaries and instructions are
left out: one of their items costs as much as ten of the others. The dense model is asked once and kept in CACHE.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from compress.evaluation import EvalResult, evaluate, suites
from compress.evaluation.above_chance import cannot_tell
from compress.evaluation.suites.base import Suite

FAMILIES = ("factoid", "multiple_choice", "retrieval")
PLACEHOLDER = "Held-out text is measured by measure.py, on more windows than these questions need. "
"""An evaluation reads held-out text; this costs next to nothing."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("dense", "model", "data", "cache"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--limit", type=int, default=100, help="items per family")
    print(json.dumps(ask(**vars(parser.parse_args()))))


def ask(dense: Path, model: Path, data: Path, cache: Path, limit: int) -> dict[str, Any]:
    """Returns, by family, the number of items, both scores, and how many outcomes fell and rose."""
    suite = suites.load("kick", data)
    compared = {}
    for name in FAMILIES:
        questions = dataclasses.replace(
            suite,
            families=tuple(family for family in suite.families if family.name == name),
            heldout=lambda: [PLACEHOLDER * 4],
        )
        known = _dense(dense, questions, limit, cache / f"kick-{name}-{limit}.json")
        if cannot_tell(known.families[name]) is None:
            result = evaluate(model, suite=questions, limit=limit, baseline=known)
            assert result.comparison is not None
            compared[name] = result.comparison.families[name]
    wanted = ("n", "dense", "compressed", "low", "high", "lost", "gained")
    return {name: {key: getattr(family, key) for key in wanted} for name, family in compared.items()}


def _dense(dense: Path, questions: Suite, limit: int, place: Path) -> EvalResult:
    """Returns the dense model's answers; asks for them the first time."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(evaluate(dense, suite=questions, limit=limit).to_json())
    return EvalResult.read(place)


if __name__ == "__main__":
    main()
