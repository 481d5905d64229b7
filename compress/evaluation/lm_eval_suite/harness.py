"""Evaluates a model on the families of a suite; lm-eval runs the requests. Uses no network."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from compress.errors import EvaluationError
from compress.evaluation.asking import fitting
from compress.evaluation.asking.fitting import Selection
from compress.evaluation.journal import Journal
from compress.evaluation.lm_eval_suite import cost, tasks
from compress.evaluation.reading.rows import Reader, Tick
from compress.evaluation.result import FamilyResult, ItemOutcome
from compress.evaluation.suites.base import Ask, Chat, Family, Item
from compress.progress import without_library_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from compress.evaluation.lm_eval_suite.checked_lm import CheckedLM

SEEDS = {"items": fitting.SEED, "random": 0, "numpy": 1234, "torch": 1234}


def count_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    families: Sequence[Family],
    chosen: Mapping[str, Selection],
    *,
    references: Mapping[str, FamilyResult] | None = None,
    batch_size: int = 32,
    journal: Journal | None = None,
    reader: Reader | None = None,
) -> int:
    """Returns the number of tokens that `run` with the same arguments will tell to `tick`."""
    if not families:
        return 0  # without lm-eval, which questions alone need
    with calm():
        from compress.evaluation.lm_eval_suite.checked_lm import CheckedLM

        lm = CheckedLM(model, tokenizer, batch_size=batch_size, journal=journal, reader=reader)
        known = {family.name: _answers(family, references) or {} for family in families}
        return cost.tokens(lm, families, chosen, known)


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    families: Sequence[Family],
    *,
    limit: int | None = None,
    chosen: Mapping[str, Selection] | None = None,
    references: Mapping[str, FamilyResult] | None = None,
    batch_size: int = 32,
    tick: Tick = lambda tokens: None,
    journal: Journal | None = None,
    reader: Reader | None = None,
) -> dict[str, FamilyResult]:
    """Returns the outcomes by family.

    Args:
        chosen: the items, as `fitting.select` returns them; None selects them here, up to `limit`.
        references: results of the dense model, whose answers are used in questions about earlier answers. None uses
            the model's own answers.
        tick: receives the numbers of tokens read and written.
        journal: replies that are known already; new ones are added.
        reader: what reads the model; by default the loaded model itself.

    Raises EvaluationError for non-finite scores and for prompts longer than the model's context.
    """
    if chosen is None:
        chosen = fitting.select(families, tokenizer, fitting.room_of(model), limit)
    chat = fitting.chat_form(tokenizer)
    asked = [_Asked(family, chosen[family.name], _answers(family, references)) for family in families
             if family.name in chosen]  # fmt: skip
    if not asked:
        return {}
    with calm():
        from compress.evaluation.lm_eval_suite.checked_lm import CheckedLM

        lm = CheckedLM(model, tokenizer, batch_size=batch_size, tick=tick, journal=journal, reader=reader)
        while any(state.waiting for state in asked):
            _round(lm, asked, chat)
    return {state.family.name: state.result() for state in asked}


@dataclass
class _Asked:
    """State of a family during a run; questions that depend on answers wait until those answers exist."""

    family: Family
    selection: Selection
    references: dict[str, dict[str, str]] | None
    """The dense model's answers by item and question; None: use the model's own answers."""
    waiting: list[Ask] = field(init=False)
    items: list[Item] = field(init=False)
    by_id: dict[str, Item] = field(default_factory=dict)
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, dict[str, str | int]] = field(default_factory=dict)
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.waiting, self.items = list(self.family.asks), list(self.selection.items)
        for item in self.items:
            self.arguments[item["id"]], self.answers[item["id"]], self.metrics[item["id"]] = {}, {}, {}

    def ready(self, chat: Chat) -> list[tuple[Ask, list[Item]]]:
        """Removes from `waiting` and returns the questions that can be asked now, with their items."""
        open_names = set() if self.references is not None else {ask.name for ask in self.waiting}
        now = [ask for ask in self.waiting if not open_names & set(ask.needs)]
        self.waiting = [ask for ask in self.waiting if ask not in now]
        if self.family.prepare is not None:
            self.items = [self.family.prepare(item, self._reference(item["id"]), chat) for item in self.items]
        self.by_id = {item["id"]: item for item in self.items}
        return [(ask, items) for ask in now if (items := [item for item in self.items if ask.prompt in item])]

    def _reference(self, key: str) -> dict[str, str]:
        if self.references is None:
            return {name: text for name, text in self.answers[key].items() if isinstance(text, str)}
        if key not in self.references:
            raise EvaluationError(
                f"family {self.family.name!r}: the dense model's evaluation has no answer to item {key!r}",
                do="Evaluate the dense model again with the same suite, data and limit",
            )
        return self.references[key]

    def take(self, ask: Ask, key: str, arguments: Any, reply: Any, metrics: Mapping[str, float]) -> None:
        """Stores the reply to one question about one item."""
        self.arguments[key][ask.name] = arguments
        self.metrics[key] |= metrics
        if ask.kind == "answer":
            self.answers[key][ask.name] = reply if self.family.prepare is not None else reply.strip()
        elif ask.kind in ("choose", "complete"):
            self.answers[key][ask.name] = ask.pick(self.by_id[key], reply)

    def result(self) -> FamilyResult:
        family = self.family
        return FamilyResult(
            family.name,
            family.primary,
            family.kind,
            fmean(item.get("chance", family.chance) for item in self.items),
            [self._outcome(item) for item in self.items],
            self.selection.left_out,
        )

    def _outcome(self, item: Item) -> ItemOutcome:
        key = item["id"]
        metrics, answers = self.metrics[key], self.answers[key]
        if self.family.derive is not None:
            metrics = self.family.derive(item, answers, metrics)
        in_order = [self.arguments[key][ask.name] for ask in self.family.asks if ask.name in self.arguments[key]]
        prompt_hash = hashlib.sha256(json.dumps(in_order, sort_keys=True).encode()).hexdigest()[:16]
        return ItemOutcome(key, metrics[self.family.primary], answers, prompt_hash, metrics, item.get("cluster"))


def _answers(family: Family, references: Mapping[str, FamilyResult] | None) -> dict[str, dict[str, str]] | None:
    if references is None or family.name not in references:
        return None
    return {
        item.id: {name: text for name, text in item.answers.items() if isinstance(text, str)}
        for item in references[family.name].items
    }


def _round(lm: CheckedLM, asked: Sequence[_Asked], chat: Chat) -> None:
    """Asks all questions that are ready: one lm-eval call, then the questions of kind `follow`."""
    now = {f"{state.family.name}_{ask.name}": (state, ask, items)
           for state in asked for ask, items in state.ready(chat)}  # fmt: skip
    assert now, "questions that need each other's answers"
    now_asked = [tasks.task(name, ask, items, fitting.longest_answer(ask, lm.max_length))
             for name, (_, ask, items) in now.items() if ask.kind != "follow"]  # fmt: skip
    samples = _lm_eval(lm, now_asked) if now_asked else {}
    for name, (state, ask, items) in now.items():
        if ask.kind == "follow":
            arguments = [(item[ask.prompt], item[ask.target]) for item in items]
            for item, asked_of, scores in zip(items, arguments, lm.follow(arguments), strict=True):
                state.take(ask, item["id"], asked_of, scores, ask.grade(item, scores))
            continue
        for row in samples[name]:
            metrics = {metric: float(row[metric]) for metric in row["metrics"]}
            state.take(ask, row["doc"]["id"], row["arguments"], tasks.reply(ask, row["filtered_resps"]), metrics)


def _lm_eval(lm: CheckedLM, asked: list[dict[str, Any]]) -> dict[str, list[tasks.Row]]:
    from lm_eval import evaluate
    from lm_eval.tasks import TaskManager

    loaded = TaskManager(include_defaults=False).load(asked)
    samples: dict[str, list[tasks.Row]] = evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)["samples"]
    return samples


@contextmanager
def calm() -> Iterator[None]:
    """Silences lm-eval and seeds all random numbers inside the context, equally for every model."""
    with _quiet(), _seeded():
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the libraries' warnings and progress bars, and keeps HF Evaluate offline."""
    os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")  # lm-eval asks it for metrics that it does not know
    from lm_eval.api import task as lm_eval_task
    from transformers.utils import logging as transformers_logging

    logger, bar, verbosity = logging.getLogger("lm_eval"), lm_eval_task.tqdm, transformers_logging.get_verbosity()
    level = logger.level
    lm_eval_task.tqdm = lambda items, **_: items
    logger.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    try:
        with without_library_bars():
            yield
    finally:
        lm_eval_task.tqdm = bar
        logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def _seeded() -> Iterator[None]:
    """Seeds all random numbers inside the context and restores the caller's state afterwards."""
    import numpy as np
    import torch

    state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(SEEDS["random"])
    np.random.seed(SEEDS["numpy"])
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEEDS["torch"])
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
