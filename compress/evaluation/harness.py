"""The adapter to lm-eval: families in, outcomes out. lm-eval runs the requests; nothing here talks to a network."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compress.evaluation.result import FamilyResult, ItemOutcome
from compress.evaluation.suites.base import Ask, Family, Item

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEEDS = {"items": 0, "random": 0, "numpy": 1234, "torch": 1234}
_OUTPUT_TYPES = {"answer": "generate_until", "choose": "multiple_choice", "recall": "loglikelihood"}
Row = dict[str, Any]
"""One row of lm-eval's samples: document, arguments, responses and metrics."""


def count_requests(families: Sequence[Family], limit: int | None) -> int:
    """Returns how many times `done` will be called by `run`."""
    per_item = {"choose": lambda ask, item: len(item[ask.target])}
    return sum(
        per_item.get(ask.kind, lambda ask, item: 1)(ask, item)
        for family in families
        for ask in family.asks
        for item in family.subset(limit, SEEDS["items"])
    )


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    families: Sequence[Family],
    *,
    limit: int | None = None,
    batch_size: int = 32,
    done: Callable[[], None] = lambda: None,
) -> dict[str, FamilyResult]:
    """Returns the outcomes by family; `done` is called after every request.

    Raises EvaluationError for scores that are not finite and for prompts that are longer than the model takes.
    """
    chosen = {family.name: family.subset(limit, SEEDS["items"]) for family in families}
    tasks = [_task(family, ask, chosen[family.name]) for family in families for ask in family.asks]
    with _quiet(), _seeded():
        from lm_eval import evaluate
        from lm_eval.tasks import TaskManager

        from compress.evaluation.checked import CheckedLM

        lm = CheckedLM(model, tokenizer, batch_size=batch_size, done=done)
        loaded = TaskManager(include_defaults=False).load(tasks)
        samples: dict[str, list[Row]] = evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)["samples"]
    return {family.name: _collect(family, chosen[family.name], samples) for family in families}


def _task_name(family: Family, ask: Ask) -> str:
    return f"{family.name}_{ask.name}"


def _task(family: Family, ask: Ask, items: Sequence[Item]) -> dict[str, Any]:
    """An lm-eval task whose documents are the items; the metrics come from `process_results`, none from a registry."""
    by_id = {item["id"]: item for item in items}

    def documents(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        return {"test": Dataset.from_list([{"id": item["id"]} for item in items])}

    def process(document: Row, responses: list[Any]) -> dict[str, float]:
        return ask.grade(by_id[document["id"]], _reply(ask, responses))

    def prompt(document: Row) -> str:
        return str(by_id[document["id"]][ask.prompt])

    def target(document: Row) -> Any:
        return by_id[document["id"]][ask.target] if ask.kind == "recall" else ""

    def choices(document: Row) -> list[str]:
        return list(by_id[document["id"]][ask.target])

    config: dict[str, Any] = {
        "task": _task_name(family, ask),
        "custom_dataset": documents,
        "test_split": "test",
        "output_type": _OUTPUT_TYPES[ask.kind],
        "doc_to_text": prompt,
        "doc_to_target": target,
        "target_delimiter": "",
        "process_results": process,
        "metric_list": [],
        "num_fewshot": 0,
    }
    if ask.kind == "choose":
        config["doc_to_choice"] = choices
        config["doc_to_target"] = lambda document: 0
    if ask.kind == "answer":
        config["generation_kwargs"] = {"until": ["\n"], "max_gen_toks": ask.max_tokens, "do_sample": False}
    return config


def _reply(ask: Ask, responses: list[Any]) -> Any:
    if ask.kind == "answer":
        return responses[0]
    log_likelihoods = [float(value) for value, _ in responses]
    return log_likelihoods if ask.kind == "choose" else log_likelihoods[0]


def _collect(family: Family, items: Sequence[Item], samples: dict[str, list[Row]]) -> FamilyResult:
    rows = {ask.name: {row["doc"]["id"]: row for row in samples[_task_name(family, ask)]} for ask in family.asks}
    outcomes = []
    for item in items:
        answers: dict[str, str | int] = {}
        metrics: dict[str, float] = {}
        asked = []
        for ask in family.asks:
            row = rows[ask.name][item["id"]]
            reply = _reply(ask, row["filtered_resps"])
            metrics |= {name: float(row[name]) for name in row["metrics"]}
            asked.append(row["arguments"])
            if ask.kind == "answer":
                answers[ask.name] = reply.strip()
            elif ask.kind == "choose":
                answers[ask.name] = reply.index(max(reply))
        prompt_hash = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
        outcomes.append(ItemOutcome(item["id"], metrics[family.primary], answers, prompt_hash, metrics))
    return FamilyResult(family.name, family.primary, family.kind, family.chance, outcomes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps lm-eval's and transformers' warnings and bars off the screen, and HF Evaluate off the network."""
    os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")  # lm-eval asks it for metrics that it does not know
    from lm_eval.api import task as lm_eval_task
    from transformers.utils import logging as transformers_logging

    logger, bar, verbosity = logging.getLogger("lm_eval"), lm_eval_task.tqdm, transformers_logging.get_verbosity()
    level = logger.level
    lm_eval_task.tqdm = lambda items, **_: items
    logger.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        lm_eval_task.tqdm = bar
        logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def _seeded() -> Iterator[None]:
    """The same random numbers for every model, and the caller's own afterwards."""
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
