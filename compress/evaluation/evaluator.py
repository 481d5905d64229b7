"""Evaluates one model on one suite, optionally paired with a baseline (`evaluate`). Start reading here."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import __version__, devices
from compress.errors import EvaluationError
from compress.evaluation import cache as kept
from compress.evaluation import heldout, suites
from compress.evaluation.asking import chat_form, default_suite, fitting, tiers
from compress.evaluation.lm_eval_suite import extra_tasks, harness
from compress.evaluation.open_model import Subject, open_subject, tokenizer_of
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
    suite: str | Suite = suites.AUTO,
    data_dir: str | Path | None = None,
    chat: str = "auto",
    tasks: Sequence[str] = (),
    baseline: Model | EvalResult | None = None,
    reference: Model | None = None,
    tier: str | None = None,
    limit: int | None = None,
    device: str = "auto",
    batch_size: int = 32,
    cache: str | Path | None = None,
    judge: Judge | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """Evaluates a model on a suite and returns the outcome of every item.

    Args:
        model: `atlas`, a folder (dense or compressed), a hub id, an opened ModelSource, or a loaded model. A loaded
            model keeps its dtype; all others run in fp32.
        tokenizer: tokenizer of a loaded model; None takes the tokenizer of the folder.
        suite: name of a suite, path of a file of questions, a Suite object, or `auto` (`default_suite.choose`).
        data_dir: folder with the public data of the suite `kick`; None downloads the data from the hub.
        chat: `auto` asks a chat model through its chat template for the answers that it writes itself, `always` also
            for choices and references, `never` not at all. With an evaluation as baseline, `auto` is its setting.
        tasks: additional lm-eval tasks, groups or YAML files; each becomes one family.
        baseline: the dense model, its evaluation, or its eval.json; every item is paired with it. A model is evaluated
            first, and the result contains its evaluation as `.baseline`.
        reference: the dense model for the divergence if `baseline` is an evaluation.
        tier: `pr` (400 items per family, 64 windows of held-out text) or `release` (all), instead of `limit`.
        limit: largest number of items per family (a seeded, stratified subset) and of windows of held-out text.
        device: `auto`, `cpu`, `cuda[:N]`, `xpu` or `mps`, for models that are opened here; a loaded model stays where
            it is.
        batch_size: number of sequences per forward pass.
        cache: folder for cached evaluations of baselines; None: no cache.
        judge: another model that compares the answers to instructions with the baseline's.
        progress: receives the progress reports.

    Raises:
        EvaluationError: non-finite scores (the layer is named), prompts longer than the context, missing or malformed
            data, a baseline with other items, a judge whose reply has no verdict.
    """
    tiers.resolve(tier, limit)
    chosen_device = devices.resolve(device)
    progress = progress or Silent()
    if isinstance(suite, str):
        choice = default_suite.choose(suite, data_dir, lambda: tokenizer_of(model, tokenizer), tier=tier, limit=limit)
        chosen, tier = choice.suite, choice.tier
    else:
        chosen = suite
    bounds = tiers.resolve(tier, limit)
    known = _evaluation(baseline)
    if known is not None:
        check_suites(known.suite, _of_suite(chosen))
    if judge is not None and baseline is None:
        raise EvaluationError("a judge without a baseline", do="Give the dense model with --baseline")
    dense_model = reference if known is not None else baseline
    subject = open_subject(model, tokenizer, chosen_device)
    if known is not None and chat == "auto":
        chat = str(known.settings.get("chat", "never"))
    chat = chat_form.resolve(chat, subject.tokenizer, subject.ends)
    settings = {"limit": bounds.items, "chat": chat, **({"tier": tier} if tier else {}),
                **({"tasks": list(tasks)} if tasks else {})}  # fmt: skip
    run = _Run(chosen, extra_tasks.load(tasks, progress), bounds, settings, batch_size, progress)
    dense = open_subject(dense_model, tokenizer, chosen_device) if dense_model is not None else None

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
    """Returns the baseline if it is an evaluation or an eval.json; None if it is a model or None."""
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
        """Returns the held-out text results of both models, and their divergence if both have the same tokens."""
        documents, limit = self.suite.heldout(), self.bounds.windows
        windows = heldout.cut(documents, subject.tokenizer, room=subject.room, limit=limit)
        with self.progress.stage("Held-out text", len(windows.inputs)) as task:
            if dense is None:
                return heldout.perplexity(subject.model, windows, done=task.advance), None, None
            dense_windows = heldout.cut(documents, dense.tokenizer, room=dense.room, limit=limit)
            if windows.same_as(dense_windows):
                dense_text, text, kl = heldout.divergence(dense.model, subject.model, windows, done=task.advance)
                return text, dense_text, kl
            text = heldout.perplexity(subject.model, windows, done=task.advance)
            return text, heldout.perplexity(dense.model, dense_windows), None

    def ask_once(self, dense: Subject, text: TextResult, folder: Path | None) -> EvalResult:
        """Returns the dense model's evaluation, from the cache if possible."""
        key = kept.key_of(self._about(dense), dense.tokenizer) if folder is not None else None
        if folder is None or key is None:
            return self.ask(dense, text)
        if (cached := kept.find(folder, key, text)) is not None:
            self.progress.note(f"{dense.name} was evaluated before: its answers are read from {folder}")
            return cached
        evaluation = self.ask(dense, text)
        kept.keep(folder, key, evaluation)
        return evaluation

    def ask(
        self, subject: Subject, text: TextResult, references: Mapping[str, FamilyResult] | None = None
    ) -> EvalResult:
        """Runs all questions on one model; `references` are the dense model's answers, for questions about them."""
        families = chat_form.dressed(self.suite.families, subject.tokenizer, self.settings["chat"])
        chosen = fitting.select(families, subject.tokenizer, subject.room, self.bounds.items)
        with self.progress.stage(f"Knowledge, {subject.kind}", harness.count_requests(families, chosen)) as task:
            results = harness.run(
                subject.model,
                subject.tokenizer,
                families,
                chosen=chosen,
                references=references,
                batch_size=self.batch_size,
                done=task.advance,
            )
        if self.tasks:
            results |= extra_tasks.run(subject.model, subject.tokenizer, self.tasks, limit=self.bounds.items,
                                       batch_size=self.batch_size, progress=self.progress)  # fmt: skip
        left_out = fitting.warnings(families, chosen, subject.room)
        return EvalResult(**self._about(subject), families=results, text=text,
                          warnings=(*self.suite.warnings, *left_out))  # fmt: skip

    def _about(self, subject: Subject) -> dict[str, Any]:
        """Returns everything the outcomes depend on, in the fields of eval.json."""
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
