"""Turns the questions of a suite into lm-eval tasks: one task per question, whose documents are the items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compress.evaluation.suites.base import Ask, Item

_OUTPUT_TYPES = {
    "answer": "generate_until",
    "choose": "multiple_choice",
    "complete": "multiple_choice",
    "recall": "loglikelihood",
}
Row = dict[str, Any]
"""One row of lm-eval's samples: document, arguments, responses and metrics."""


def task(name: str, ask: Ask, items: Sequence[Item], max_tokens: int) -> dict[str, Any]:
    """Returns the task's configuration; its metrics come from `process_results`, not from lm-eval's registry."""
    by_id = {item["id"]: item for item in items}

    def documents(**_: Any) -> dict[str, Any]:
        from datasets import Dataset

        return {"test": Dataset.from_list([{"id": item["id"]} for item in items])}

    def process(document: Row, responses: list[Any]) -> dict[str, float]:
        return ask.grade(by_id[document["id"]], reply(ask, responses))

    def prompt(document: Row) -> str:
        return str(by_id[document["id"]][ask.prompt])

    def target(document: Row) -> Any:
        return by_id[document["id"]][ask.target]

    config: dict[str, Any] = {
        "task": name,
        "custom_dataset": documents,
        "test_split": "test",
        "output_type": _OUTPUT_TYPES[ask.kind],
        "doc_to_text": prompt,
        "doc_to_target": lambda document: "",
        "target_delimiter": "",
        "process_results": process,
        "metric_list": [],
        "num_fewshot": 0,
    }
    if ask.kind == "answer":
        config["generation_kwargs"] = {"until": list(ask.stop), "max_gen_toks": max_tokens, "do_sample": False}
    elif ask.kind == "recall":
        config["doc_to_target"] = target
    elif ask.kind == "choose":
        config["doc_to_choice"] = lambda document: list(target(document))
        config["doc_to_target"] = lambda document: 0
    else:  # lm-eval's form for several prompts with one ending: the "choices" are the prompts, the text is a number
        config["doc_to_text"] = lambda document: 0
        config["doc_to_choice"] = lambda document: list(by_id[document["id"]][ask.prompt])
        config["doc_to_target"] = target
    return config


def reply(ask: Ask, responses: list[Any]) -> Any:
    """Returns the argument of a question's grading function from lm-eval's responses."""
    if ask.kind == "answer":
        return responses[0]
    log_likelihoods = [float(value) for value, _ in responses]
    return log_likelihoods[0] if ask.kind == "recall" else log_likelihoods
