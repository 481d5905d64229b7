"""Runs any task of lm-eval, by name or as a YAML file, as a family with its own prompts and metrics."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import EvaluationError, unknown
from compress.evaluation.lm_eval_suite import harness
from compress.evaluation.result import FamilyResult, ItemOutcome
from compress.progress import Progress, without_library_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The metric that a task is paired by: the first of these that it has, else the first one of which more is better.
_PREFERRED = ("acc_norm", "acc", "exact_match", "em", "f1", "pass@1", "pass_at_1", "bits_per_byte", "word_perplexity")
_BINARY = frozenset({"acc_norm", "acc", "exact_match", "em"})
Row = dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A task or group of lm-eval with its data."""

    name: str
    tasks: Any
    """lm-eval's dictionary of tasks and groups."""


def load(names: Sequence[str], progress: Progress) -> list[Loaded]:
    """Returns the tasks with their data; EvaluationError for a name that lm-eval does not know and for lacking data."""
    if not names:
        return []
    with progress.stage("lm-eval's tasks", len(names)) as task, harness.calm():
        loaded = []
        registered = any(not _is_file(name) for name in names)  # lm-eval's own take seconds to read
        manager = _manager(registered)
        for name in names:
            loaded.append(Loaded(name, _load(manager, name)))
            task.advance(note=name)
    return loaded


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    loaded: Sequence[Loaded],
    *,
    limit: int | None,
    batch_size: int,
    progress: Progress,
) -> dict[str, FamilyResult]:
    """Returns one family per name; a group is one family of all its tasks.

    Outcomes are a task's own metric per document, 0 to 1 and more is better; log-likelihoods of whole texts become
    the geometric mean probability per word or byte. With a `limit` a seeded subset of every task is asked, groups
    dividing it evenly.

    Raises EvaluationError for a task without a metric by which items can be paired.
    """
    families = {}
    for one in loaded:
        with progress.stage(f"lm-eval {one.name}", 1) as task:
            families[_family_name(one.name)] = _one(model, tokenizer, one, limit, batch_size)
            task.advance()
    return families


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _family_name(name: str) -> str:
    return Path(name).stem if _is_file(name) else name


def _one(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, loaded: Loaded, limit: int | None, batch_size: int
) -> FamilyResult:
    name, tasks = loaded.name, loaded.tasks["tasks"]
    with harness.calm():
        from lm_eval import evaluate

        from compress.evaluation.lm_eval_suite.checked_lm import CheckedLM

        drawn = _draw(tasks, limit)
        lm = CheckedLM(model, tokenizer, batch_size=batch_size, done=lambda: None)
        found = evaluate(lm, loaded.tasks, samples=drawn, bootstrap_iters=0, log_samples=True)
    items: list[ItemOutcome] = []
    primary = ""
    for task_name, task in tasks.items():
        rows = _first_filter(found["samples"][task_name])
        metric = _primary(name, rows[0], task.higher_is_better())
        if primary and metric != primary:
            raise EvaluationError(f"the tasks of {name} have {primary} and {metric}", do="Name the tasks one by one")
        primary = metric
        items += [_outcome(task_name, row, metric) for row in rows]
    kind = "binary" if primary in _BINARY and all(item.outcome in (0.0, 1.0) for item in items) else "continuous"
    return FamilyResult(_family_name(name), primary, kind, 0.0, items)


def _manager(registered: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=registered)


def _load(manager: Any, name: str) -> Any:
    if _is_file(name) and not Path(name).is_file():
        raise EvaluationError(f"no task file {name}")
    try:
        with without_library_bars():
            return manager.load([name])
    except KeyError as error:
        raise EvaluationError(unknown("lm-eval task", name, manager.all_tasks), do="See `lm-eval ls tasks`") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise EvaluationError(
            f"the data of lm-eval's task {name} could not be downloaded: {error}",
            do="Check the connection and HF_HUB_OFFLINE",
        ) from error


def _draw(tasks: Mapping[str, Any], limit: int | None) -> dict[str, list[int]]:
    """Which documents of each task are asked."""
    share = None if limit is None else max(1, limit // len(tasks))
    drawn = {}
    for name, task in tasks.items():
        places = list(range(len(task.eval_docs)))
        random.Random(f"{harness.SEEDS['items']}/{name}").shuffle(places)
        drawn[name] = sorted(places[:share])
    return drawn


def _first_filter(rows: Sequence[Row]) -> list[Row]:
    """Some tasks read the same answers in several ways: the first way counts."""
    return [row for row in rows if row["filter"] == rows[0]["filter"]]


def _primary(name: str, row: Row, higher_is_better: Mapping[str, bool]) -> str:
    metrics: list[str] = list(row["metrics"])
    for metric in _PREFERRED:
        if metric in metrics:
            return metric
    usable = [metric for metric in metrics if _value(row[metric]) is not None]
    better = [metric for metric in usable if higher_is_better.get(metric, True) or isinstance(row[metric], tuple)]
    if not better:
        raise EvaluationError(
            f"the task {name} has no metric by which items can be paired: {', '.join(metrics)}",
            allowed="tasks with a metric per document, of which more is better",
        )
    return better[0]


def _value(metric: Any) -> float | None:
    """A metric of one document as a number; None for what only a corpus has."""
    if isinstance(metric, bool | int | float):
        return float(metric)
    if isinstance(metric, tuple) and len(metric) == 2 and all(isinstance(part, int | float) for part in metric):
        log_likelihood, size = metric
        return exp(log_likelihood / size) if log_likelihood <= 0 < size else None
    return float(metric.item()) if getattr(metric, "shape", None) == () else None


def _outcome(task: str, row: Row, metric: str) -> ItemOutcome:
    metrics = {name: value for name in row["metrics"] if (value := _value(row[name])) is not None}
    if metric not in metrics or not 0 <= metrics[metric] <= 1:
        raise EvaluationError(f"document {row['doc_id']} of {task}: {metric}={row[metric]!r}", allowed="0 to 1")
    asked = json.dumps(row["arguments"], sort_keys=True, default=str)
    prompt_hash = hashlib.sha256(asked.encode()).hexdigest()[:16]
    return ItemOutcome(f"{task}/{row['doc_id']}", metrics[metric], {"answer": _answer(row)}, prompt_hash, metrics)


def _answer(row: Row) -> str | int:
    """The text, or the likeliest choice, or for one likelihood whether the text is the likeliest."""
    replies = row["filtered_resps"]
    if isinstance(replies[0], str):
        return str(replies[0]).strip()
    if isinstance(replies[0], list | tuple) and len(replies) > 1:
        values = [float(reply[0]) for reply in replies]
        return values.index(max(values))
    return str(replies[0])
