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
from compress.format.manifest import MANIFEST, fingerprint

if TYPE_CHECKING:
    from compress.evaluation.open_model import Model
    from compress.progress import Progress


def both(
    dense: Model | EvalResult | None, candidate: Model | EvalResult, *, progress: Progress | None, **asked: Any
) -> tuple[EvalResult, EvalResult | str]:
    """Returns the evaluations of the dense model and of the candidate.

    Without a dense model the candidate is an evaluation that has a baseline, or the folder of a run, whose evaluation
    is taken. For a candidate with non-finite scores the second value is the error text instead of an evaluation.
    """
    known, evaluated = _read(dense), _read(candidate)
    if dense is None:
        evaluated = _of_run(candidate) if evaluated is None else evaluated
        if evaluated is None or evaluated.baseline is None:
            raise _no_dense(candidate, evaluated)
        known = evaluated.baseline
    asked = {name: value for name, value in asked.items() if value is not None}
    if known is not None and evaluated is not None:
        if unused := sorted(asked.keys() - {"cache", "unfinished"}):
            raise EvaluationError(
                f"{', '.join(unused)} given, but both evaluations exist already",
                do="Leave it out, or give two models, which are evaluated then",
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


def recorded(candidate: Any) -> Path | None:
    """Returns the eval.json of the run whose folder is given; None for anything else."""
    path = Path(candidate) / "eval.json" if isinstance(candidate, str | Path) else None
    return path if path is not None and path.is_file() else None


def _of_run(folder: Any) -> EvalResult | None:
    """Returns the evaluation that a run left in its folder; None where there is none.

    Raises:
        EvaluationError: it is of other weights than those in the folder.
    """
    if (path := recorded(folder)) is None:
        return None
    evaluated = EvalResult.read(path)
    if (path.parent / MANIFEST).is_file() and evaluated.model.get("fingerprint") != fingerprint(path.parent):
        raise EvaluationError(
            f"{path} is of other weights than those in {folder}",
            do=f"Give DENSE and {folder}: both are evaluated then",
        )
    return evaluated


def _no_dense(candidate: Any, evaluated: EvalResult | None) -> EvaluationError:
    """Returns the error for a missing dense model."""
    if not isinstance(candidate, str | Path):
        return EvaluationError("no dense model", do="Give the dense model, or an evaluation that has a baseline")
    allowed = "two models, two eval.json, the folder of a run, or one eval.json that was made with --baseline"
    folder = Path(candidate)
    if evaluated is None and not folder.exists():
        return EvaluationError(f"there is no folder or file {candidate}", allowed=allowed)
    if evaluated is None and (folder / MANIFEST).is_file():
        return EvaluationError(
            f"no dense model to judge {candidate} against: the folder has no eval.json, as after a run with --no-eval",
            allowed=allowed,
            do=f"Give the dense model as well: compress gate DENSE {candidate}",
        )
    return EvaluationError(
        f"no dense model to judge {candidate} against", allowed=allowed, do="Give DENSE and CANDIDATE"
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
