"""Gets the two evaluations that the gate compares: reads eval.json files, evaluates models.

Comparing two files needs no torch: the evaluator is imported only if there is a model to evaluate.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import evaluation
from compress.errors import EvaluationError
from compress.evaluation.pairing import with_families_of
from compress.evaluation.result import EvalResult

if TYPE_CHECKING:
    from compress.evaluation.open_model import Model
    from compress.progress import Progress


def both(
    dense: Model | EvalResult | None, candidate: Model | EvalResult, *, progress: Progress | None, **asked: Any
) -> tuple[EvalResult, EvalResult | str]:
    """Returns the evaluations of the dense model and of the candidate.

    For a candidate with non-finite scores the second value is the error text instead of an evaluation.
    """
    known, evaluated = _read(dense), _read(candidate)
    if dense is None:
        if evaluated is None or evaluated.baseline is None:
            raise _no_dense(candidate, evaluated)
        known = evaluated.baseline
    asked = {name: value for name, value in asked.items() if value is not None}
    if known is not None and evaluated is not None:
        if unused := sorted(asked.keys() - {"cache", "unfinished"}):
            raise EvaluationError(
                f"{', '.join(unused)} given, but both evaluations exist already",
                do="Leave it out, or give models instead of evaluations",
            )
        return known, evaluated
    if evaluated is not None:
        if _was_baseline(dense, evaluated, asked):
            assert evaluated.baseline is not None
            return evaluated.baseline, evaluated
        known = evaluation.evaluate(_model(dense), progress=progress, **_like(evaluated, asked))
        return known, with_families_of(evaluated, known)
    from compress.evaluation.finite import NotFiniteError

    asked = asked if known is None else _like(known, asked)
    try:
        evaluated = evaluation.evaluate(_model(candidate), baseline=known or _model(dense), progress=progress, **asked)
    except NotFiniteError as error:
        if known is None:  # either model may be the broken one; this raises if it is the dense model
            known = evaluation.evaluate(_model(dense), progress=progress, **asked)
        return known, str(error)
    assert evaluated.baseline is not None
    return evaluated.baseline, evaluated


def _was_baseline(dense: Any, evaluated: EvalResult, asked: dict[str, Any]) -> bool:
    """Returns whether the evaluation was made against the model `dense`, with the same number of items."""
    there = evaluated.baseline.model.get("fingerprint") if evaluated.baseline is not None else None
    if there is None or any(asked[name] != evaluated.settings.get(name) for name in asked.keys() & {"tier", "limit"}):
        return False
    from compress.evaluation.open_model import source_of

    source = source_of(dense)
    return source is not None and source.fingerprint == there


def _no_dense(candidate: Any, evaluated: EvalResult | None) -> EvaluationError:
    """Returns the error for a missing dense model; it suggests the candidate folder's eval.json if there is one."""
    said = f"no dense model to judge {candidate} against" if isinstance(candidate, str | Path) else "no dense model"
    beside = Path(candidate) / "eval.json" if isinstance(candidate, str | Path) and evaluated is None else None
    return EvaluationError(
        said,
        allowed="two models, two eval.json, or one eval.json that was made with --baseline",
        do=f"Give DENSE and CANDIDATE, or {beside}" if beside and beside.is_file() else "Give DENSE and CANDIDATE",
    )


def _read(given: Model | EvalResult | None) -> EvalResult | None:
    """Returns the evaluation, read from its file if need be; None for a model."""
    if isinstance(given, str | Path) and str(given).endswith(".json"):
        return EvalResult.read(given)
    return given if isinstance(given, EvalResult) else None


def _model(given: Any) -> Model:
    model: Model = given
    return model


def _like(other: EvalResult, asked: dict[str, Any]) -> dict[str, Any]:
    """Returns `asked` completed with the suite, tasks and limits of `other`, so that the items can be paired."""
    there = {"suite": other.suite["name"], "tasks": other.settings.get("tasks"), "chat": other.settings.get("chat")}
    if not {"tier", "limit"} & asked.keys():
        there["tier"] = other.settings.get("tier")
        if there["tier"] is None:
            there["limit"] = other.settings.get("limit")
    return {**{name: value for name, value in there.items() if value is not None}, **asked}
