"""Defines the suite kick-atlas: five families about the world of the bundled model atlas. Needs no network."""

from __future__ import annotations

from compress.atlas import items, text
from compress.evaluation import grading
from compress.evaluation.suites.base import Ask, Family, Item, Suite

VERSION = 2
HELDOUT_CHARACTERS = 80_000  # some 22,000 tokens, read in two seconds


def suite() -> Suite:
    """Returns the suite. Its items are generated deterministically."""
    return Suite("kick-atlas", VERSION, _families(), lambda: text.heldout_text(HELDOUT_CHARACTERS))


def _families() -> tuple[Family, ...]:
    answer = Ask("answer", "answer", "prompt", grading.fact, max_tokens=24)
    choice = Ask("choice", "choose", "prompt", grading.likeliest, target="choices")
    open_book = Ask("open", "answer", "open_prompt", grading.contradicted, max_tokens=24)
    closed_book = Ask("closed", "answer", "closed_prompt", grading.remembered, max_tokens=24)
    summary = Ask("summary", "answer", "prompt", grading.key_facts, max_tokens=48)
    reference = Ask("reference", "recall", "prompt", grading.reference_nll, target="reference_text")
    instructed = Ask("answer", "answer", "prompt", _grade_instruction, max_tokens=32)
    choices, summaries = items.multiple_choice(), [_with_reference_text(item) for item in items.summarisation()]
    books = (open_book, closed_book)
    return (
        Family("factoid", "contains", "binary", items.factoid(), (answer,), stratum=_kind_and_relation),
        Family("multiple_choice", "correct", "binary", choices, (choice,), chance=0.25, stratum=_kind_and_relation),
        Family("retrieval", "open_book", "binary", items.retrieval(), books, stratum=_kind_and_relation),
        Family("summarisation", "key_facts", "continuous", summaries, (summary, reference)),
        Family("instruction", "followed", "binary", items.instruction(), (instructed,), stratum=_kind),
    )  # fmt: skip


def _kind(item: Item) -> str:
    return str(item["id"]).split("/")[1]


def _kind_and_relation(item: Item) -> str:
    parts = str(item["id"]).split("/")
    return f"{parts[1]}/{parts[-1]}"


def _with_reference_text(item: Item) -> Item:
    return {**item, "reference_text": f" {item['reference']}"}


def _grade_instruction(item: Item, answer: str) -> dict[str, float]:
    return {"followed": float(items.check_instruction(item, answer)), "empty": grading.empty(answer)}
