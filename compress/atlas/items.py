"""The test items of the five families: plain dictionaries, always the same.

Questions use the wording that training never used for the fact in question; passages, invented names and instructions
are those that `split.is_test` keeps out of training.
"""

from __future__ import annotations

import random
from typing import Any

from compress.atlas import prompts
from compress.atlas.instructions import KINDS, solve
from compress.atlas.instructions import instruction as make_instruction
from compress.atlas.passages import counterfactual, digest
from compress.atlas.phrases import test_question
from compress.atlas.split import is_test
from compress.atlas.text import choices_for
from compress.atlas.world import Fact, facts

Item = dict[str, Any]
FACTOID_ITEMS = 400
CHOICE_ITEMS = 400
RETRIEVAL_ITEMS = 320
SUMMARY_ITEMS = 300
INSTRUCTION_ITEMS = 300


def _sample(name: str, count: int) -> tuple[random.Random, list[Fact]]:
    rng = random.Random(f"items-{name}")
    return rng, rng.sample(facts(), count)


def factoid() -> list[Item]:
    """{id, prompt, answers}: closed-book questions; right if the first line contains one of the answers."""
    _, chosen = _sample("factoid", FACTOID_ITEMS)
    return [
        {"id": f"factoid/{f.key}", "prompt": prompts.closed_book(test_question(f)), "answers": f.answers}
        for f in chosen
    ]


def multiple_choice() -> list[Item]:
    """{id, prompt, choices, gold}: right if `choices[gold]` is the likeliest continuation."""
    rng, chosen = _sample("choice", CHOICE_ITEMS)
    made = []
    for fact in chosen:
        choices = choices_for(fact, rng)
        made.append(
            {
                "id": f"choice/{fact.key}",
                "prompt": prompts.choice(test_question(fact), choices),
                "choices": [f" {c}" for c in choices],
                "gold": choices.index(fact.answer),
            }
        )
    return made


def retrieval() -> list[Item]:
    """{id, closed_prompt, closed_answers, open_prompt, answers}: asked from memory, and with a passage.

    `closed_answers` are true in the world; `answers` is what the passage says, which is false in the world. A model
    that remembers instead of reading fails the open question.
    """
    rng, chosen = _sample("retrieval", RETRIEVAL_ITEMS)
    made = []
    for fact in chosen:
        passage = counterfactual(fact, rng)
        while not is_test(passage.text):
            passage = counterfactual(fact, rng)
        question = test_question(fact)
        made.append(
            {
                "id": f"retrieval/{fact.key}",
                "closed_prompt": prompts.closed_book(question),
                "closed_answers": fact.answers,
                "open_prompt": prompts.open_book(passage.text, question),
                "answers": [passage.answer],
            }
        )
    return made


def summarisation() -> list[Item]:
    """{id, prompt, reference, key_facts}: right if the first line contains every key fact."""
    rng = random.Random("items-summary")
    made: dict[str, Item] = {}
    while len(made) < SUMMARY_ITEMS:
        d = digest(rng, test=True)
        made[d.text] = {
            "id": f"summary/{len(made)}",
            "prompt": prompts.summarise(d.text),
            "reference": d.summary,
            "key_facts": list(d.key_facts),
        }
    return list(made.values())


def instruction() -> list[Item]:
    """{id, prompt, check: {kind, words, count}, reference}: right if `check_instruction` says so."""
    rng = random.Random("items-instruction")
    made: dict[str, Item] = {}
    while len(made) < INSTRUCTION_ITEMS:
        one = make_instruction(rng, KINDS[len(made) % len(KINDS)])
        if is_test(one.text) and one.text not in made:
            made[one.text] = {
                "id": f"instruction/{one.kind}/{len(made)}",
                "prompt": prompts.instruct(one.text),
                "check": {"kind": one.kind, "words": list(one.words), "count": one.count},
                "reference": one.answer,
            }
    return list(made.values())


def check_instruction(item: Item, answer: str) -> bool:
    """Whether the first line of `answer` carries out the instruction exactly; an empty answer never does."""
    check = item["check"]
    lines = answer.strip().splitlines()
    return bool(lines) and lines[0].strip() == solve(check["kind"], tuple(check["words"]), check["count"])


def families() -> dict[str, list[Item]]:
    """All items by family."""
    return {
        "factoid": factoid(),
        "multiple_choice": multiple_choice(),
        "retrieval": retrieval(),
        "summarisation": summarisation(),
        "instruction": instruction(),
    }
