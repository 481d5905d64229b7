"""One evaluation of one or two models: reads the held-out text, asks the questions, shows one progress bar."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from compress import __version__
from compress.errors import installed
from compress.evaluation import cache as kept
from compress.evaluation import heldout
from compress.evaluation.asking import chat_form, fitting, tiers
from compress.evaluation.heldout import Windows
from compress.evaluation.journal import Journal
from compress.evaluation.lm_eval_suite import extra_tasks, harness
from compress.evaluation.open_model import Subject
from compress.evaluation.reading import residence
from compress.evaluation.reading.in_memory import InMemoryReader
from compress.evaluation.reading.rows import Reader
from compress.evaluation.reading.streamed import StreamedReader
from compress.evaluation.result import Divergence, EvalResult, FamilyResult, TextResult
from compress.evaluation.suites.base import Family, Suite
from compress.progress import Progress, Task

_LIBRARIES = ("torch", "transformers", "lm_eval")
References = Mapping[str, FamilyResult]


@dataclass(frozen=True)
class Session:
    """The suite, tasks and limits of one evaluation, the same for both models."""

    suite: Suite
    tasks: Sequence[extra_tasks.Loaded]
    bounds: tiers.Tier
    settings: Mapping[str, Any]
    batch_size: int
    progress: Progress
    cache: Path | None = None
    """Folder for whole evaluations of dense models."""
    unfinished: Path | None = None
    """Folder for the replies of evaluations that are not complete."""
    residence: residence.Residence | None = None
    """Where models that were opened here lie; None for models in memory."""
    max_memory: int | None = None
    """Largest resident memory in bytes."""

    def run(
        self, subject: Subject, dense: Subject | None, known: EvalResult | None
    ) -> tuple[EvalResult, EvalResult | None, Divergence | None]:
        """Returns the evaluations of the subject and of the dense model, and their divergence.

        Args:
            subject: the model to evaluate.
            dense: the dense model; None without a baseline, or if only its evaluation is at hand.
            known: the evaluation of the dense model if it was made before.
        """
        of_subject = _Part(self, subject)
        of_dense = _Part(self, dense) if dense is not None else None
        ask_dense = of_dense is not None and known is None and not of_dense.cached
        references = known.families if known is not None else None
        costs = [of_subject.text_cost, of_dense.text_cost if of_dense else 0,
                 of_dense.cost(None) if of_dense and ask_dense else 0, of_subject.cost(references)]  # fmt: skip
        with self.progress.stage("Evaluation", sum(costs)) as task:
            bar = _Bar(task, self.max_memory)
            bar.begin(costs[0] + costs[1], "held-out text")
            text, dense_text, divergence = _read(of_subject, of_dense, bar)
            bar.finish()
            if of_dense is not None and known is None:
                assert dense_text is not None
                bar.begin(costs[2], f"questions, {of_dense.subject.name}")
                known = of_dense.ask_once(dense_text, bar)
                bar.finish()
            bar.begin(costs[3], f"questions, {subject.name}")
            result = of_subject.ask(text, known.families if known is not None else None, bar)
            bar.finish()
        for part in (of_subject, of_dense):
            if part is not None:
                part.journal.remove()
        return result, known, divergence


def _read(subject: _Part, dense: _Part | None, bar: _Bar) -> tuple[TextResult, TextResult | None, Divergence | None]:
    """Returns the held-out text results of both models, and their divergence if both have the same tokens."""
    if dense is None:
        return heldout.perplexity(subject.reader, subject.windows, tick=bar.tick), None, None
    if subject.windows.same_as(dense.windows):
        dense_text, text, kl = heldout.divergence(dense.reader, subject.reader, subject.windows, tick=bar.tick)
        return text, dense_text, kl
    text = heldout.perplexity(subject.reader, subject.windows, tick=bar.tick)
    return text, heldout.perplexity(dense.reader, dense.windows, tick=bar.tick), None


class _Part:
    """One model in a session."""

    def __init__(self, session: Session, subject: Subject) -> None:
        self.session, self.subject = session, subject
        self.reader = self._reader()
        families, where = session.suite.families, session.residence
        # of both models, though one of them may be loaded: they are paired family by family
        self.unasked = [family.name for family in families if where and where.on_disk and family.is_written]
        self.families: Sequence[Family] = chat_form.dressed(
            [family for family in families if family.name not in self.unasked],
            subject.tokenizer,
            session.settings["chat"],
        )
        self.chosen = fitting.select(self.families, subject.tokenizer, subject.room, session.bounds.items)

    def _reader(self) -> Reader:
        session, walker = self.session, self.subject.walker
        if walker is None:
            return InMemoryReader(self.subject.model, session.batch_size)
        assert session.residence is not None, "whoever opens a model on disk knows why"
        return StreamedReader(walker, session.batch_size, session.residence.waiting_bytes)

    @cached_property
    def windows(self) -> Windows:
        """The held-out text in the model's tokens."""
        session, subject = self.session, self.subject
        documents = session.suite.heldout()
        return heldout.cut(documents, subject.tokenizer, room=subject.room, limit=session.bounds.windows)

    @property
    def text_cost(self) -> int:
        """Tokens of the held-out text."""
        return self.reader.cost(self.windows.rows())

    def cost(self, references: References | None) -> int:
        """Tokens to read and write for the questions that the journal does not answer."""
        if not self.families:
            return 0
        subject = self.subject
        return harness.count_tokens(
            subject.model, subject.tokenizer, self.families, self.chosen, references=references,
            batch_size=self.session.batch_size, journal=self.journal, reader=self.reader,
        )  # fmt: skip

    @cached_property
    def about(self) -> dict[str, Any]:
        """Everything the outcomes depend on, in the fields of eval.json."""
        session = self.session
        return {
            "suite": of_suite(session.suite),
            "model": self.subject.description(),
            "settings": {
                **session.settings,
                "batch_size": session.batch_size,
                "device": self.subject.device.type,
                "seeds": dict(harness.SEEDS),
            },
            "libraries": {
                "compress": __version__,
                **{name: importlib.metadata.version(name) for name in _LIBRARIES if installed(name)},
            },
        }

    @cached_property
    def key(self) -> dict[str, Any] | None:
        """The key of the evaluation; None for a model in memory."""
        return kept.key_of(self.about, self.subject.tokenizer)

    @property
    def cached(self) -> bool:
        """Whether there is an evaluation under the key; it may turn out to be of another model."""
        return self.session.cache is not None and self.key is not None and kept.exists(self.session.cache, self.key)

    @cached_property
    def journal(self) -> Journal:
        """The replies so far."""
        if self.session.unfinished is None or self.key is None:
            return Journal()
        return Journal(self.session.unfinished / f"replies-{kept.name_of(self.key)}.jsonl", self.key)

    def ask_once(self, text: TextResult, bar: _Bar) -> EvalResult:
        """Returns the evaluation from the cache if possible; a new one is kept there."""
        folder, key = self.session.cache, self.key
        if folder is None or key is None:
            return self.ask(text, None, bar)
        if (cached := kept.find(folder, key, text)) is not None:
            self.session.progress.note(f"{self.subject.name} was evaluated before: its answers are read from {folder}")
            return cached
        evaluation = self.ask(text, None, bar)
        kept.keep(folder, key, evaluation)
        return evaluation

    def ask(self, text: TextResult, references: References | None, bar: _Bar) -> EvalResult:
        """Runs all questions; `references` are the dense model's answers, for questions about them."""
        session, subject = self.session, self.subject
        results = {}
        if self.families:
            results = harness.run(
                subject.model, subject.tokenizer, self.families, chosen=self.chosen, references=references,
                batch_size=session.batch_size, tick=bar.tick, journal=self.journal, reader=self.reader,
            )  # fmt: skip
        if session.tasks:
            results |= extra_tasks.run(
                subject.model, subject.tokenizer, session.tasks, limit=session.bounds.items,
                batch_size=session.batch_size, progress=session.progress, journal=self.journal, reader=self.reader,
            )  # fmt: skip
        left_out = fitting.warnings(self.families, self.chosen, subject.room)
        if self.unasked and session.residence is not None:
            left_out = [session.residence.why_left_out(self.unasked), *left_out]
        return EvalResult(**self.about, families=results, text=text, warnings=(*session.suite.warnings, *left_out))


class _Bar:
    """The progress bar of a session, in tokens; a part that took fewer than estimated moves it on to its end."""

    def __init__(self, task: Task, max_memory: int | None) -> None:
        self._task, self._max_memory = task, max_memory
        self._left, self._note = 0, ""

    def begin(self, tokens: int, note: str) -> None:
        self._left, self._note = tokens, note

    def tick(self, tokens: int) -> None:
        step = min(tokens, self._left)  # estimates of answers that do not exist yet may be too low
        self._left -= step
        residence.enforce(self._max_memory)
        self._task.advance(step, self._note)

    def finish(self) -> None:
        self.tick(self._left)


def of_suite(suite: Suite) -> dict[str, Any]:
    """Returns the entry `suite` of eval.json."""
    sources = {"sources": dict(suite.sources)} if suite.sources else {}
    return {"name": suite.name, "version": suite.version, "items_sha256": suite.items_sha256, **sources}
