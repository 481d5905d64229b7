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

from compress.errors import EvaluationError, need_package, unknown
from compress.evaluation.journal import Journal
from compress.evaluation.lm_eval_suite import harness
from compress.evaluation.reading.rows import Reader
from compress.evaluation.result import FamilyResult, ItemOutcome
from compress.progress import Progress, without_library_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# The metric for pairing is the first of these that the task has, else its first metric where higher is better.
_PREFERRED = ("acc_norm", "acc", "exact_match", "em", "f1", "pass@1", "pass_at_1", "bits_per_byte", "word_perplexity")
_BINARY = frozenset({"acc_norm", "acc", "exact_match", "em"})
Row = dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A loaded task or group of lm-eval, with its data."""

    name: str
    tasks: Any
    """lm-eval's dictionary of tasks and groups."""


def load(names: Sequence[str], progress: Progress) -> list[Loaded]:
    """Returns the tasks with their data; EvaluationError for an unknown task name and for missing data."""
    if not names:
        return []
    need_package("lm_eval", f"lm-eval's task {names[0]}")
    with progress.stage("lm-eval's tasks", len(names)) as task, harness.calm():
        loaded = []
        registered = any(not _is_file(name) for name in names)  # lm-eval's own take seconds to read
        manager = _manager(registered)
        for name in names:
            loaded.append(Loaded(name, _load(manager, name)))
            task.advance(note=name)
    return loaded


def refuse_written(loaded: Sequence[Loaded]) -> None:
    """Raises EvaluationError for a task whose answers a model writes, which one that stays on disk cannot."""
    for entry in loaded:
        if any(task.OUTPUT_TYPE == "generate_until" for task in entry.tasks["tasks"].values()):
            raise EvaluationError(
                f"the answers to lm-eval's task {entry.name} are written, and the models do not fit into memory",
                do="Raise --max-memory, or leave the task out",
            )


def run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    loaded: Sequence[Loaded],
    *,
    limit: int | None,
    batch_size: int,
    progress: Progress,
    journal: Journal | None = None,
    reader: Reader | None = None,
) -> dict[str, FamilyResult]:
    """Returns one family per name; a group becomes one family with the items of all its tasks.

    The outcome is the task's own metric per document, 0 to 1, higher is better. Log-likelihoods of whole texts become
    the geometric mean probability per word or byte. With a `limit` a seeded subset of every task is asked; the tasks of
    a group share the limit equally.

    Raises EvaluationError for a task without a metric by which items can be paired.
    """
    families = {}
    for entry in loaded:
        with progress.stage(f"lm-eval {entry.name}", 1) as task:
            families[_family_name(entry.name)] = _run(model, tokenizer, entry, limit, batch_size, journal, reader)
            task.advance()
    return families


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _family_name(name: str) -> str:
    return Path(name).stem if _is_file(name) else name


def _run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    loaded: Loaded,
    limit: int | None,
    batch_size: int,
    journal: Journal | None,
    reader: Reader | None,
) -> FamilyResult:
    name, tasks = loaded.name, loaded.tasks["tasks"]
    with harness.calm():
        from lm_eval import evaluate

        from compress.evaluation.lm_eval_suite.checked_lm import CheckedLM

        drawn = _draw(tasks, limit)
        lm = CheckedLM(model, tokenizer, batch_size=batch_size, journal=journal, reader=reader)
        results = evaluate(lm, loaded.tasks, samples=drawn, bootstrap_iters=0, log_samples=True)
    items: list[ItemOutcome] = []
    primary = ""
    for task_name, task in tasks.items():
        rows = _first_filter(results["samples"][task_name])
        metric = _primary(name, rows[0], task.higher_is_better())
        if primary and metric != primary:
            raise EvaluationError(
                f"the tasks of {name} have different metrics: {primary} and {metric}", do="Give the tasks one by one"
            )
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
    """Returns the indices of the documents to ask, by task."""
    share = None if limit is None else max(1, limit // len(tasks))
    drawn = {}
    for name, task in tasks.items():
        places = list(range(len(task.eval_docs)))
        random.Random(f"{harness.SEEDS['items']}/{name}").shuffle(places)
        drawn[name] = sorted(places[:share])
    return drawn


def _first_filter(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows of the first filter; some tasks extract the answer with several filters."""
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
            allowed="tasks with a metric per document where higher is better",
        )
    return better[0]


def _value(metric: Any) -> float | None:
    """Returns a document's metric as a number; None for a metric that is defined only for a corpus."""
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
    """Returns the generated text, the index of the likeliest choice, or lm-eval's reply on a single likelihood."""
    replies = row["filtered_resps"]
    if isinstance(replies[0], str):
        return str(replies[0]).strip()
    if isinstance(replies[0], list | tuple) and len(replies) > 1:
        values = [float(reply[0]) for reply in replies]
        return values.index(max(values))
    return str(replies[0])
