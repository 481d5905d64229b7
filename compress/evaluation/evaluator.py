"""Evaluates one model on one suite, optionally paired with a baseline (`evaluate`). Start reading here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compress import devices
from compress.errors import EvaluationError
from compress.evaluation import samples, suites
from compress.evaluation.asking import chat_form, default_suite, tiers
from compress.evaluation.lm_eval_suite import extra_tasks
from compress.evaluation.open_model import open_on_disk, open_subject, source_of, tokenizer_of
from compress.evaluation.pairing import BY_BLOCK, check_suites, compare, with_families_of
from compress.evaluation.reading import residence
from compress.evaluation.result import EvalResult, Sample
from compress.evaluation.session import Session, of_suite
from compress.evaluation.suites.base import Suite
from compress.models.memory import resident_bytes
from compress.progress import Progress, Silent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compress.evaluation.judge import Judge
    from compress.evaluation.open_model import Model, Subject


def residence_of(model: Model, dense: Model | None, max_memory: int | None) -> residence.Residence:
    """Returns where the models lie while they are evaluated; models that are loaded already stay in memory.

    Raises MemoryLimitError if not even one block of each fits below `max_memory`.
    """

    sources = [source_of(each) for each in (model, dense) if each is not None]
    sizes = [residence.Size.of(source) for source in sources if source is not None]
    return residence.choose(sizes, max_memory, resident_bytes())


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
    unfinished: str | Path | None = None,
    judge: Judge | None = None,
    max_memory: int | None = None,
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
        tier: `quick` (50 items per family, 16 windows of held-out text), `pr` (400, 64) or `release` (all), instead
            of `limit`.
        limit: largest number of items per family (a seeded, stratified subset) and of windows of held-out text.
        device: `auto`, `cpu`, `cuda[:N]`, `xpu` or `mps`, for models that are opened here; a loaded model stays where
            it is.
        batch_size: number of sequences per forward pass.
        cache: folder for cached evaluations of baselines; None: no cache.
        unfinished: folder for the replies of an evaluation that is interrupted; the same call goes on from them. None:
            an evaluation that is interrupted starts over.
        judge: another model that compares the answers to instructions with the baseline's.
        max_memory: largest resident memory in bytes. Models that do not fit below it, or without it into the memory
            that is free, are read block by block, and families whose answers a model writes are left out.
        progress: receives the progress reports.

    Raises:
        EvaluationError: non-finite scores (the layer is named), prompts longer than the context, missing or malformed
            data, a baseline with other items, a judge whose reply has no verdict.
        MemoryLimitError: not even one block of each model fits below `max_memory`.
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
        check_suites(known.suite, of_suite(chosen))
    if judge is not None and baseline is None:
        raise EvaluationError("a judge without a baseline", do="Give the dense model with --baseline")
    dense_model = reference if known is not None else baseline
    assert not isinstance(dense_model, EvalResult)
    where = residence_of(model, dense_model, max_memory)
    if where.on_disk and judge is not None:
        raise EvaluationError(
            "a judge compares answers that models write, and they do not fit into memory", do="Raise --max-memory"
        )

    def opened(each: Model) -> Subject:
        source = source_of(each) if where.on_disk else None
        if source is None:
            return open_subject(each, tokenizer, chosen_device)
        return open_on_disk(source, tokenizer, chosen_device)

    subject = opened(model)
    if known is not None and chat == "auto":
        chat = str(known.settings.get("chat", "never"))
    chat = chat_form.resolve(chat, subject.tokenizer, subject.ends)
    settings = {"limit": bounds.items, "chat": chat, **({"tier": tier} if tier else {}),
                **({"tasks": list(tasks)} if tasks else {}), **({BY_BLOCK: True} if where.on_disk else {})}  # fmt: skip
    session = Session(
        chosen, extra_tasks.load(tasks, progress), bounds, settings, batch_size, progress,
        cache=None if cache is None else Path(cache), unfinished=None if unfinished is None else Path(unfinished),
        residence=where, max_memory=max_memory,
    )  # fmt: skip
    if where.on_disk:
        extra_tasks.refuse_written(session.tasks)
        progress.note(f"evaluation: {where.described()}")
    dense = opened(dense_model) if dense_model is not None else None
    result, known, divergence = session.run(subject, dense, known)
    for warning in result.warnings:
        progress.note(f"warning: {warning}")
    if known is not None:
        known = with_families_of(known, result)
    comparison = compare(known, result) if known is not None else None
    judgement = judge.compare(chosen, known, result, progress) if judge is not None and known is not None else None
    result = replace(result, divergence=divergence, comparison=comparison, baseline=known, judgement=judgement)
    return replace(result, samples=_samples(result, session, subject, dense))


def _samples(result: EvalResult, session: Session, subject: Subject, dense: Subject | None) -> tuple[Sample, ...]:
    """Returns items for people to read; where the suite has none in a model's own words, both models write some."""
    picked = samples.of_items(result, session.suite)
    on_disk = session.residence is not None and session.residence.on_disk
    if dense is None or on_disk or any(sample.kind == samples.SAMPLE for sample in picked):
        return picked
    chat, most = str(session.settings["chat"]), session.bounds.items
    return (*samples.written(dense, subject, chat, most, session.progress), *picked)


def _evaluation(baseline: Model | EvalResult | None) -> EvalResult | None:
    """Returns the baseline if it is an evaluation or an eval.json; None if it is a model or None."""
    if isinstance(baseline, EvalResult):
        return baseline
    if isinstance(baseline, str | Path) and str(baseline).endswith(".json"):
        return EvalResult.read(baseline)
    return None
