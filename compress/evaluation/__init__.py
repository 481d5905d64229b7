"""Evaluates models: `evaluate` runs a suite on one model, `compare` pairs two results.

lm-eval runs the questions of a suite (`suites/`, `harness`), `heldout` measures perplexity and divergence on text,
`result` holds the outcomes and `stats` computes the intervals. Importing this package imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.evaluation.result import Comparison, EvalResult

if TYPE_CHECKING:
    from compress.evaluation.evaluator import evaluate as evaluate
    from compress.evaluation.pairing import compare as compare

__all__ = ["Comparison", "EvalResult", "compare", "evaluate"]


def __getattr__(name: str) -> Any:
    if name == "evaluate":
        from compress.evaluation.evaluator import evaluate

        return evaluate
    if name == "compare":
        from compress.evaluation.pairing import compare

        return compare
    raise AttributeError(f"module 'compress.evaluation' has no attribute {name!r}")
