"""Decides the gate: tests a candidate for non-inferiority to the dense model on the same items, family by family."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import EvaluationError, unknown
from compress.evaluation.gate.family import check_floors, judge, unmeasurable
from compress.evaluation.gate.result import (
    NOT_JUDGED,
    DivergenceVerdict,
    FamilyVerdict,
    GateReport,
    Verdict,
    overall,
)
from compress.evaluation.gate.settings import GateSettings
from compress.evaluation.pairing import check_questions
from compress.evaluation.result import Divergence, EvalResult, FamilyResult

if TYPE_CHECKING:
    from compress.evaluation.open_model import Model
    from compress.progress import Progress

REPORT_ONLY: Mapping[str, tuple[str, ...]] = {"kick": ("summarisation", "instruction")}
"""Families that are reported but not judged by default, by suite. Their scores (a probability per byte, the agreement
with another model's answers) do not count wrong answers, and 80 prompts are too few to detect small losses."""


def gate(
    dense: Model | EvalResult | None,
    candidate: Model | EvalResult,
    *,
    margin: float | Mapping[str, float] | None = None,
    floor: Mapping[str, float] | None = None,
    report_only: Sequence[str] | None = None,
    confidence: float = 0.95,
    max_empty: float = 5.0,
    max_kl: float | None = None,
    progress: Progress | None = None,
    **asked: Any,
) -> GateReport:
    """Returns the verdict on `candidate`: pass, fail, or inconclusive with the number of items that would settle it.

    Args:
        dense: model, evaluation, or eval.json; None if the candidate's evaluation contains its baseline.
        candidate: model, evaluation, or eval.json; without `dense` also the folder of a run. Models are evaluated;
            existing evaluations are used as they are.
        margin: tolerated loss in points, one number for all families or by family (`default` for all others). Default:
            1 from 4,000 items on, 2 from 1,500, else 5. A point is 0.01 of the outcome.
        floor: lowest allowed score of the dense model in points, by family. Default: chance plus the margin.
        report_only: families to report without judging them.
        confidence: confidence of each one-sided bound.
        max_empty: tolerated rise of the share of empty answers, in points.
        max_kl: tolerated mean divergence, in nats per token.
        progress: receives the progress reports.
        asked: options of `evaluate` for models: `suite`, `limit`, `batch_size` and so on.

    Raises:
        EvaluationError: the two cannot be compared: different items or prompts, a dense model below its floor or with
            non-finite scores, unreadable files. (A candidate with non-finite scores fails instead.)
    """
    margins = {"default": margin} if isinstance(margin, int | float) else dict(margin or {})
    settings = GateSettings(
        margin=margins,
        floor=dict(floor or {}),
        report_only=None if report_only is None else tuple(report_only),
        confidence=confidence,
        max_empty=max_empty,
        max_kl=max_kl,
    )
    from compress.evaluation.gate import inputs

    known, found = inputs.both(dense, candidate, progress=progress, **asked)
    if isinstance(found, str):
        name = Path(candidate).name if isinstance(candidate, str | Path) else type(candidate).__name__
        return broken(known, found, settings, {"model": {"name": name}})
    return decide(known, found, settings)


def decide(dense: EvalResult, candidate: EvalResult, settings: GateSettings) -> GateReport:
    """Returns the verdict on two evaluations; see `gate`."""
    check_questions(dense, candidate)
    if bad := _not_finite(dense):
        raise EvaluationError(f"the evaluation of the dense model is not usable: {bad}")
    if bad := _not_finite(candidate):
        return broken(dense, bad, settings, _of(candidate))
    shown = _report_only(dense, settings)
    divergence = _divergence(candidate.divergence, settings.max_kl)
    if divergence is None or divergence.verdict == "reported":
        check_floors([family for name, family in dense.families.items() if name not in shown], settings)
    families = {
        name: _family(family, candidate.families[name], settings, name not in shown, dense.settings.get("limit"))
        for name, family in dense.families.items()
    }
    judged = {name: family for name, family in families.items() if family.verdict not in NOT_JUDGED}
    if not judged and (divergence is None or divergence.verdict == "reported"):
        raise _nothing_judged(dense)
    decisive: list[tuple[str, Verdict, str]] = [(name, f.verdict, f.reason) for name, f in judged.items()]
    if divergence is not None and divergence.verdict != "reported":
        decisive.append(("divergence", divergence.verdict, divergence.reason))
    return GateReport(
        verdict=overall([verdict for _, verdict, _ in decisive]),
        reasons=[f"{name}: {reason}" for name, verdict, reason in decisive if verdict != "pass"],
        families=families,
        divergence=divergence,
        remarks=_remarks(dense, candidate),
        confidence=settings.confidence,
        suite=dense.suite,
        dense=_of(dense),
        candidate=_of(candidate),
        criteria=dataclasses.asdict(settings),
    )


def _family(
    dense: FamilyResult, candidate: FamilyResult, settings: GateSettings, judged: bool, limit: int | None
) -> FamilyVerdict:
    """Returns the verdict on one family: `reported` if it is not to be judged, `cannot tell` if it cannot be."""
    if judged and (reason := unmeasurable(dense, settings)) is not None:
        shown = judge(dense, candidate, settings, judged=False)
        return dataclasses.replace(shown, verdict="cannot tell", reason=reason)
    return judge(dense, candidate, settings, judged=judged, limit=limit)


def _nothing_judged(dense: EvalResult) -> EvaluationError:
    if not dense.families:
        return EvaluationError(
            f"nothing is judged: the suite {dense.suite['name']} has no questions",
            do="Give --max-kl to judge the divergence, or data for questions with --data-dir",
        )
    return EvaluationError("nothing is judged: every family is only reported", do="Give fewer --report-only")


def broken(dense: EvalResult, why: str, settings: GateSettings, candidate: Mapping[str, Any]) -> GateReport:
    """Returns the failing report for a candidate without usable scores."""
    return GateReport(
        verdict="fail",
        reasons=(f"the candidate gives no usable scores: {why}",),
        families={},
        divergence=None,
        remarks=(),
        confidence=settings.confidence,
        suite=dense.suite,
        dense=_of(dense),
        candidate=candidate,
        criteria=dataclasses.asdict(settings),
    )


def _report_only(dense: EvalResult, settings: GateSettings) -> Sequence[str]:
    """Returns the families that are not judged. Raises EvaluationError for a setting that names an unknown family."""
    for what, names in (
        ("margin", set(settings.margin) - {"default"}),
        ("floor", set(settings.floor)),
        ("report_only", set(settings.report_only or ())),
    ):
        for name in sorted(names - set(dense.families)):
            raise EvaluationError(
                f"{what}: {unknown('family', name, dense.families)}", allowed=", ".join(dense.families)
            )
    if settings.report_only is not None:
        return settings.report_only
    usual = REPORT_ONLY.get(str(dense.suite["name"]), ())
    return [name for name in usual if name not in settings.margin]  # an explicit margin asks for a verdict


def _not_finite(result: EvalResult) -> str | None:
    """Returns a description of the first non-finite figure, or None if all are finite."""
    for name, family in result.families.items():
        for item in family.items:
            if not all(map(math.isfinite, (item.outcome, *item.metrics.values()))):
                return f"family {name!r}, item {item.id!r}: not a finite number"
    if not math.isfinite(result.text.nll_per_token):
        return "the likelihood of the held-out text is not a finite number"
    kl = result.divergence
    if kl is not None and not all(map(math.isfinite, (kl.mean, kl.low, kl.high, kl.p99))):
        return "the divergence from the dense model is not a finite number"
    return None


def _divergence(found: Divergence | None, maximum: float | None) -> DivergenceVerdict | None:
    if found is None:
        if maximum is not None:
            raise EvaluationError(
                f"max_kl={maximum}, but the candidate's evaluation has no divergence",
                do="Give both models, or evaluate the candidate with --baseline DENSE",
            )
        return None
    verdict: Verdict = "reported"
    reason = "shown, not judged"
    if maximum is not None:
        if found.high <= maximum:
            verdict, reason = "pass", f"no more than {maximum:g} nats per token"
        elif found.low > maximum:
            verdict, reason = "fail", f"{found.mean:.4f} nats per token, more than {maximum:g}"
        else:
            verdict, reason = "inconclusive", f"the interval {found.low:.4f} to {found.high:.4f} holds {maximum:g}"
    return DivergenceVerdict(verdict, reason, found.mean, found.low, found.high, found.p99, found.same_top1, maximum)


def _remarks(dense: EvalResult, candidate: EvalResult) -> list[str]:
    """Returns remarks on what else may explain a difference: warnings, settings, dtype, library versions."""
    remarks = [*dict.fromkeys([*dense.warnings, *candidate.warnings])]
    fingerprint = dense.model.get("fingerprint")
    if fingerprint is not None and fingerprint == candidate.model.get("fingerprint"):
        remarks.append("both evaluations are of the same model")
    for what, before, after in (
        *((f"setting {key}", dense.settings, candidate.settings) for key in ("batch_size", "device")),
        ("dtype", dense.model, candidate.model),
        *((f"version of {key}", dense.libraries, candidate.libraries) for key in sorted(dense.libraries)),
    ):
        key = what.split()[-1]
        if before.get(key) != after.get(key):
            remarks.append(f"another {what}: {before.get(key)} for the dense model, {after.get(key)} for the candidate")
    return remarks


def _of(result: EvalResult) -> dict[str, Any]:
    return {"model": dict(result.model), "settings": dict(result.settings), "libraries": dict(result.libraries)}
