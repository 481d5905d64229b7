"""Defines the suite kick: five families on public data, from the hub or a folder, after LLM-KICK (arXiv 2310.01382).

Differs from the paper in: multiple choice by the likelihood of the letter instead of a generated letter; whole-word
matching of the gold answer in the answer, never the reverse, and never for an empty answer; references that occur in
no prompt; greedy decoding; agreement with the dense model instead of a judge's opinion.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from compress.errors import EvaluationError
from compress.evaluation import grading
from compress.evaluation.kick_data import items as kick_items
from compress.evaluation.kick_data.rows import Data
from compress.evaluation.suites.base import Ask, Family, Item, Suite

VERSION = 2
TAKES_DATA = True
_OPTIONAL = {"freebaseqa", "arc_easy", "wikitext2_test"}
_ANSWER_TOKENS = 32  # more would let a model list candidates until one is right
_SUMMARY_TOKENS = 96
_CHAT_TOKENS = 64  # of 256, most of the time of a whole evaluation went into this family


def suite(folder: Path | None = None) -> Suite:
    """Returns the suite with the data of `folder`, or of the hub if None.

    Datasets that are missing in the folder are left out with a warning. Raises EvaluationError if all are missing, if
    a row does not have the documented fields, and if the hub cannot be reached.
    """
    data = Data(folder)
    families = tuple(family for make in (_factoid, _choice, _retrieval, _summarisation, _instruction)
                     if (family := make(data)).items)  # fmt: skip
    if not families:
        raise EvaluationError(
            f"--data-dir {folder} has none of the datasets of the suite",
            allowed=", ".join(f"{name}.jsonl" for name in data.lacking),
        )
    documents = kick_items.documents(data)
    names = {family.name for family in families}
    missing = [name for name in data.lacking if name not in _OPTIONAL]
    warnings = [f"{name}.jsonl is not in {folder}; left out" for name in missing]
    warnings += [f"the family {name} has no data; left out" for name in _NAMES if name not in names]
    return Suite("kick", VERSION, families, lambda: documents, dict(data.sources), tuple(warnings))


_NAMES = ("factoid", "multiple_choice", "retrieval", "summarisation", "instruction")


def _family(name: str, primary: str, kind: Any, items: list[Item], asks: tuple[Ask, ...], **more: Any) -> Family:
    return Family(name, primary, kind, items, asks, leave_out=True, stratum=lambda item: str(item["stratum"]), **more)


def _factoid(data: Data) -> Family:
    ask = Ask("answer", "answer", "prompt", grading.fact, max_tokens=_ANSWER_TOKENS)
    return _family("factoid", "contains", "binary", kick_items.factoid(data), (ask,))


def _choice(data: Data) -> Family:
    asks = (
        Ask("choice", "choose", "prompt", grading.choice, target="choices", pick=grading.taken),
        Ask("completion", "complete", "contexts", grading.choice, target="continuation", pick=grading.taken),
    )
    items = kick_items.multiple_choice(data)
    return _family("multiple_choice", "correct", "binary", items, asks, shorter=kick_items.fewer_shots)


def _retrieval(data: Data) -> Family:
    asks = (
        Ask("open", "answer", "open_prompt", grading.opened, max_tokens=_ANSWER_TOKENS),
        Ask("closed", "answer", "closed_prompt", grading.closed, max_tokens=_ANSWER_TOKENS),
    )
    items = kick_items.retrieval(data)
    return _family("retrieval", "open_book", "binary", items, asks, derive=grading.with_passage_gain)


def _summarisation(data: Data) -> Family:
    asks = (
        Ask("summary", "answer", "prompt", grading.summary, max_tokens=_SUMMARY_TOKENS, stop=("\n\n",)),
        Ask("reference", "recall", "prompt", grading.reference, target="reference_text"),
    )
    return _family("summarisation", "reference_probability", "continuous", kick_items.summarisation(data), asks)


def _instruction(data: Data) -> Family:
    asks: list[Ask] = []
    for turn in (1, 2):
        earlier = ("turn_1",) if turn == 2 else ()
        prompt, own = f"prompt_{turn}", f"turn_{turn}"
        asks += [
            Ask(own, "answer", prompt, lambda item, answer: {}, max_tokens=_CHAT_TOKENS, stop=("\nUser:",),
                needs=earlier),
            Ask(f"dense_{turn}", "follow", prompt, partial(grading.follows, turn),
                target=f"reference_{turn}", needs=(*earlier, own)),
        ]  # fmt: skip
    items = kick_items.instruction(data)
    more = {"prepare": kick_items.converse, "derive": grading.instruction}
    return _family("instruction", "agreement", "continuous", items, tuple(asks), **more)
