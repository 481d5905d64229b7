"""kick-atlas: the five families about the world of the bundled model. Needs no network and no download."""

from __future__ import annotations

from compress.atlas import items, text
from compress.evaluation.matching import contains, distinct_3, exact, f1, first_line, kept, rouge_l
from compress.evaluation.suites.base import Ask, Family, Item, Suite

VERSION = 2
HELDOUT_CHARACTERS = 80_000  # some 22,000 tokens, read in two seconds


def suite() -> Suite:
    """Returns the suite; the items are generated, always the same."""
    return Suite("kick-atlas", VERSION, _families(), lambda: text.heldout_text(HELDOUT_CHARACTERS))


def _families() -> tuple[Family, ...]:
    answer = Ask("answer", "answer", "prompt", _grade_fact, max_tokens=24)
    choice = Ask("choice", "choose", "prompt", _grade_choice, target="choices")
    open_book = Ask("open", "answer", "open_prompt", _grade_open, max_tokens=24)
    closed_book = Ask("closed", "answer", "closed_prompt", _grade_closed, max_tokens=24)
    summary = Ask("summary", "answer", "prompt", _grade_summary, max_tokens=48)
    reference = Ask("reference", "recall", "prompt", _grade_reference, target="reference_text")
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


def _empty(answer: str) -> float:
    return float(not first_line(answer))


def _grade_fact(item: Item, answer: str) -> dict[str, float]:
    gold = item["answers"]
    return {
        "contains": float(contains(answer, gold)),
        "exact": float(exact(answer, gold)),
        "f1": f1(answer, gold),
        "empty": _empty(answer),
    }


def _grade_choice(item: Item, log_likelihoods: list[float]) -> dict[str, float]:
    """`margin` is by how many nats the right choice leads the best wrong one."""
    gold = item["gold"]
    margin = log_likelihoods[gold] - max(v for i, v in enumerate(log_likelihoods) if i != gold)
    return {"correct": float(log_likelihoods.index(max(log_likelihoods)) == gold), "margin": margin}


def _grade_open(item: Item, answer: str) -> dict[str, float]:
    """The passage contradicts the world: `open_book` is reading it, `remembered` is answering from memory instead."""
    read = contains(answer, item["answers"])
    remembered = not read and contains(answer, item["closed_answers"])
    return {"open_book": float(read), "remembered": float(remembered), "empty": _empty(answer)}


def _grade_closed(item: Item, answer: str) -> dict[str, float]:
    return {"closed_book": float(contains(answer, item["closed_answers"]))}


def _grade_summary(item: Item, answer: str) -> dict[str, float]:
    share = kept(answer, item["key_facts"])
    return {
        "key_facts": share,
        "all_key_facts": float(share == 1.0),
        "rouge_l": rouge_l(answer, item["reference"]),
        "distinct_3": distinct_3(answer),
        "empty": _empty(answer),
    }


def _grade_reference(item: Item, log_likelihood: float) -> dict[str, float]:
    """Nats per byte of the reference summary."""
    return {"reference_nll_per_byte": -log_likelihood / len(item["reference_text"].encode())}


def _grade_instruction(item: Item, answer: str) -> dict[str, float]:
    return {"followed": float(items.check_instruction(item, answer)), "empty": _empty(answer)}
