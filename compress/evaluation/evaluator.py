"""Evaluates one model on one suite, and against a baseline (`evaluate`). The file to read first."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import __version__
from compress.errors import EvaluationError
from compress.evaluation import cache as kept
from compress.evaluation import fitting, heldout, suites, tiers
from compress.evaluation.lm_eval_suite import extra_tasks, harness
from compress.evaluation.open_model import Subject, open_subject
from compress.evaluation.pairing import check_suites, compare
from compress.evaluation.result import Divergence, EvalResult, FamilyResult, TextResult
from compress.evaluation.suites.base import Suite
from compress.progress import Progress, Silent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compress.evaluation.judge import Judge
    from compress.evaluation.open_model import Model

_LIBRARIES = ("torch", "transformers", "lm_eval")


def evaluate(
    model: Model,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    suite: str | Suite = "kick-atlas",
    data_dir: str | Path | None = None,
    tasks: Sequence[str] = (),
    baseline: Model | EvalResult | None = None,
    reference: Model | None = None,
    tier: str | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    cache: str | Path | None = None,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """Asks a model the questions of a suite and returns every outcome.

    Args:
        model: `atlas`, a folder (dense or compressed), a hub id, an opened ModelSource, or a loaded model; all but the
            last are run in fp32.
        tokenizer: of a loaded model; a folder brings its own.
        suite: name of a suite, or one of your own.
        data_dir: folder with the public data of the suite `kick`; None takes them from the hub.
        tasks: lm-eval tasks, groups or YAML files that are asked too, each as a family of its own.
        baseline: the dense model, or its evaluation (or eval.json); pairs every item with it. A model is evaluated
            first, and the result carries its evaluation as `.baseline`.
        reference: the dense model for the divergence when `baseline` is an evaluation.
        tier: `pr` (400 items per family, 64 windows of held-out text) or `release` (all), instead of `limit`.
        limit: at most so many items per family (a seeded, stratified subset) and windows of held-out text.
        batch_size: sequences at a time.
        cache: folder in which evaluations of baselines are kept and found again; None keeps none.
        judge: another model that compares the answers to instructions with the baseline's.
        progress: where to report to.

    Raises:
        EvaluationError: scores that are not finite (the layer is named), prompts that do not fit, data that is missing
            or malformed, a baseline that was asked something else, a judge that cannot be understood.
    """
    bounds = tiers.resolve(tier, limit)
    progress = progress or Silent()
    chosen = suites.load(suite, data_dir) if isinstance(suite, str) else suite
    known = _evaluation(baseline)
    if known is not None:
        check_suites(known.suite, _of_suite(chosen))
    if judge is not None and baseline is None:
        raise EvaluationError("a judge without a baseline", do="Name the dense model with --baseline")
    settings = {"limit": bounds.items, **({"tier": tier} if tier else {}), **({"tasks": list(tasks)} if tasks else {})}
    run = _Run(chosen, extra_tasks.load(tasks, progress), bounds, settings, batch_size, progress)
    dense_model = reference if known is not None else baseline
    subject = open_subject(model, tokenizer)
    dense = open_subject(dense_model, tokenizer) if dense_model is not None else None

    text, dense_text, divergence = run.read(subject, dense)
    if dense is not None and known is None:
        assert dense_text is not None
        known = run.ask_once(dense, dense_text, Path(cache) if cache is not None else None)
    result = run.ask(subject, text, known.families if known is not None else None)
    for warning in result.warnings:
        progress.note(f"warning: {warning}")
    comparison = compare(known, result) if known is not None else None
    judgement = judge.compare(chosen, known, result, progress) if judge is not None and known is not None else None
    return replace(result, divergence=divergence, comparison=comparison, baseline=known, judgement=judgement)


def _evaluation(baseline: Model | EvalResult | None) -> EvalResult | None:
    """The baseline if it is an evaluation; None if it is a model, or nothing."""
    if isinstance(baseline, EvalResult):
        return baseline
    if isinstance(baseline, str | Path) and str(baseline).endswith(".json"):
        return EvalResult.read(baseline)
    return None


def _of_suite(suite: Suite) -> dict[str, Any]:
    sources = {"sources": dict(suite.sources)} if suite.sources else {}
    return {"name": suite.name, "version": suite.version, "items_sha256": suite.items_sha256, **sources}


@dataclass(frozen=True)
class _Run:
    """The suite, tasks and limits of one evaluation, the same for both models."""

    suite: Suite
    tasks: Sequence[extra_tasks.Loaded]
    bounds: tiers.Tier
    settings: dict[str, Any]
    batch_size: int
    progress: Progress

    def read(self, subject: Subject, dense: Subject | None) -> tuple[TextResult, TextResult | None, Divergence | None]:
        """Held-out text: the subject's result, the dense model's, and the divergence if both see the same tokens."""
        documents, limit = self.suite.heldout(), self.bounds.windows
        windows = heldout.cut(documents, subject.tokenizer, room=subject.room, limit=limit)
        with self.progress.stage("Held-out text", len(windows.inputs)) as task:
            if dense is None:
                return heldout.perplexity(subject.model, windows, done=task.advance), None, None
            dense_windows = heldout.cut(documents, dense.tokenizer, room=dense.room, limit=limit)
            if windows.same_as(dense_windows):
                dense_text, text, found = heldout.divergence(dense.model, subject.model, windows, done=task.advance)
                return text, dense_text, found
            text = heldout.perplexity(subject.model, windows, done=task.advance)
            return text, heldout.perplexity(dense.model, dense_windows), None

    def ask_once(self, dense: Subject, text: TextResult, folder: Path | None) -> EvalResult:
        """The dense model's evaluation, from the cache if it is there."""
        key = kept.key_of(self._about(dense), dense.tokenizer) if folder is not None else None
        if folder is None or key is None:
            return self.ask(dense, text)
        if (found := kept.find(folder, key, text)) is not None:
            self.progress.note(f"{dense.name} was asked before: its answers are taken from {folder}")
            return found
        made = self.ask(dense, text)
        kept.keep(folder, key, made)
        return made

    def ask(
        self, subject: Subject, text: TextResult, references: Mapping[str, FamilyResult] | None = None
    ) -> EvalResult:
        """All questions to one model."""
        families = self.suite.families
        chosen = fitting.select(families, subject.tokenizer, subject.room, self.bounds.items)
        with self.progress.stage(f"Knowledge, {subject.kind}", harness.count_requests(families, chosen)) as task:
            found = harness.run(
                subject.model,
                subject.tokenizer,
                families,
                chosen=chosen,
                references=references,
                batch_size=self.batch_size,
                done=task.advance,
            )
        if self.tasks:
            found |= extra_tasks.run(subject.model, subject.tokenizer, self.tasks, limit=self.bounds.items,
                                     batch_size=self.batch_size, progress=self.progress)  # fmt: skip
        left_out = fitting.warnings(families, chosen, subject.room)
        return EvalResult(**self._about(subject), families=found, text=text,
                          warnings=(*self.suite.warnings, *left_out))  # fmt: skip

    def _about(self, subject: Subject) -> dict[str, Any]:
        """What the outcomes depend on, in the fields of eval.json."""
        return {
            "suite": _of_suite(self.suite),
            "model": subject.description(),
            "settings": {
                **self.settings,
                "batch_size": self.batch_size,
                "device": subject.model.device.type,
                "seeds": dict(harness.SEEDS),
            },
            "libraries": {"compress": __version__, **{name: importlib.metadata.version(name) for name in _LIBRARIES}},
        }
