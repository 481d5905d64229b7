"""evaluate: one model, one suite, and what it lost against a baseline. The file to read first."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compress import __version__
from compress.errors import EvaluationError
from compress.evaluation import fitting, harness, heldout, suites
from compress.evaluation.opening import Subject, open_subject
from compress.evaluation.pairing import compare
from compress.evaluation.result import Divergence, EvalResult, TextResult
from compress.evaluation.suites.base import Suite
from compress.progress import Progress, Silent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compress.evaluation.opening import Model

_LIBRARIES = ("torch", "transformers", "lm_eval")


def evaluate(
    model: Model,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    suite: str | Suite = "kick-atlas",
    baseline: Model | EvalResult | None = None,
    reference: Model | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> EvalResult:
    """Asks a model the questions of a suite and returns every outcome.

    Args:
        model: `atlas`, a folder (dense or compressed), a hub id, an opened ModelSource, or a loaded model; all but the
            last are run in fp32.
        tokenizer: of a loaded model; a folder brings its own.
        suite: name of a suite, or one of your own.
        baseline: the dense model, or its evaluation (or eval.json); pairs every item with it. A model is evaluated
            first, and the result carries its evaluation as `.baseline`.
        reference: the dense model for the divergence when `baseline` is an evaluation.
        limit: at most so many items per family (a seeded, stratified subset) and windows of held-out text.
        batch_size: sequences at a time.
        progress: where to report to.

    Raises:
        EvaluationError: scores that are not finite (the layer is named), prompts that do not fit, a baseline that was
            asked something else.
    """
    if limit is not None and limit < 1:
        raise EvaluationError(f"limit={limit}", allowed="1 or more items per family, or None for all")
    progress = progress or Silent()
    chosen = suites.load(suite) if isinstance(suite, str) else suite
    known = _evaluation(baseline)
    dense_model = reference if known is not None else baseline
    subject = open_subject(model, tokenizer)
    dense = open_subject(dense_model, tokenizer) if dense_model is not None else None

    text, dense_text, divergence = _read(subject, dense, chosen, limit, progress)
    if dense is not None and known is None:
        known = _ask(dense, dense_text, chosen, limit, batch_size, progress)
    result = _ask(subject, text, chosen, limit, batch_size, progress)
    comparison = compare(known, result) if known is not None else None
    return replace(result, divergence=divergence, comparison=comparison, baseline=known)


def _evaluation(baseline: Model | EvalResult | None) -> EvalResult | None:
    """The baseline if it is an evaluation; None if it is a model, or nothing."""
    if isinstance(baseline, EvalResult):
        return baseline
    if isinstance(baseline, str | Path) and str(baseline).endswith(".json"):
        return EvalResult.read(baseline)
    return None


def _read(
    subject: Subject, dense: Subject | None, suite: Suite, limit: int | None, progress: Progress
) -> tuple[TextResult, TextResult | None, Divergence | None]:
    """Held-out text: the subject's result, the dense model's, and the divergence if both see the same tokens."""
    documents = suite.heldout()
    windows = heldout.cut(documents, subject.tokenizer, room=subject.room, limit=limit)
    with progress.stage("Held-out text", len(windows.inputs)) as task:
        if dense is None:
            return heldout.perplexity(subject.model, windows, done=task.advance), None, None
        dense_windows = heldout.cut(documents, dense.tokenizer, room=dense.room, limit=limit)
        if windows.same_as(dense_windows):
            dense_text, text, found = heldout.divergence(dense.model, subject.model, windows, done=task.advance)
            return text, dense_text, found
        text = heldout.perplexity(subject.model, windows, done=task.advance)
        return text, heldout.perplexity(dense.model, dense_windows), None


def _ask(
    subject: Subject, text: TextResult | None, suite: Suite, limit: int | None, batch_size: int, progress: Progress
) -> EvalResult:
    assert text is not None
    chosen = fitting.select(suite.families, subject.tokenizer, subject.room, limit)
    total = harness.count_requests(suite.families, chosen)
    with progress.stage(f"Knowledge, {subject.kind}", total) as task:
        families = harness.run(
            subject.model, subject.tokenizer, suite.families, chosen=chosen, batch_size=batch_size, done=task.advance
        )
    return EvalResult(
        suite={"name": suite.name, "version": suite.version, "items_sha256": suite.items_sha256},
        model=subject.description(),
        settings={
            "limit": limit,
            "batch_size": batch_size,
            "device": subject.model.device.type,
            "seeds": dict(harness.SEEDS),
        },
        libraries={"compress": __version__, **{name: importlib.metadata.version(name) for name in _LIBRARIES}},
        families=families,
        text=text,
    )
