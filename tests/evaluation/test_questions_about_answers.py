"""Questions that need answers, endings after several prompts, texts that are followed, and forms that fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from compress.errors import EvaluationError
from compress.evaluation.asking import fitting
from compress.evaluation.lm_eval_suite import harness
from compress.evaluation.result import FamilyResult
from compress.evaluation.suites.base import Ask, Chat, Family, Followed, Item
from compress.texts.chat import by_turns
from tests.support import tiny_suite as tiny

TEXTS = ["one two", "three", "four five six"]


def log_likelihood(prompt: str, text: str) -> float:
    before, after = (tiny.tokenizer()(part)["input_ids"] for part in (prompt, text))
    with torch.inference_mode():
        log_probs = tiny.plain_spoken()(torch.tensor([before + after])).logits[0].log_softmax(-1)
    return sum(float(log_probs[len(before) - 1 + i, token]) for i, token in enumerate(after))


def test_an_ending_is_scored_after_every_prompt() -> None:
    seen: list[list[float]] = []

    def grade(item: Item, values: list[float]) -> dict[str, float]:
        seen.append(values)
        return {"right": float(values[0] > values[1])}

    ask = Ask("completion", "complete", "contexts", grade, target="ending")
    items = [{"id": text, "contexts": [f"{text} he", f"{text} she"], "ending": " fell."} for text in TEXTS]
    found = harness.run(tiny.plain_spoken(), tiny.tokenizer(), [Family("f", "right", "binary", items, (ask,))])["f"]
    expected = [[log_likelihood(context, " fell.") for context in item["contexts"]] for item in items]
    assert [value for pair in seen for value in pair] == pytest.approx([v for pair in expected for v in pair], rel=1e-4)
    assert [item.answer for item in found.items] == [pair.index(max(pair)) for pair in expected]


def prepare(item: Item, references: Mapping[str, str], chat: Chat) -> Item:
    made = {**item, "prompt": chat(by_turns([item["text"]]))}
    return made | ({"said": references["said"]} if "said" in references else {})


def grade_followed(item: Item, found: Followed) -> dict[str, float]:
    return {"agreement": found.agreed / found.tokens if found.tokens else 1.0, "nll": found.nll, "tokens": found.tokens}


def conversation() -> Family:
    asks = (
        Ask("said", "answer", "prompt", lambda item, answer: {}, max_tokens=9, stop=("\nUser:",)),
        Ask("again", "follow", "prompt", grade_followed, target="said", needs=("said",)),
    )
    items = [{"id": text, "text": text} for text in TEXTS]
    return Family("talk", "agreement", "continuous", items, asks, prepare=prepare)


def talk(seed: int, **options: Any) -> FamilyResult:
    return harness.run(tiny.plain_spoken(seed), tiny.tokenizer(), [conversation()], **options)["talk"]


def test_a_greedy_model_agrees_with_its_own_answer() -> None:
    found = talk(0)
    for item in found.items:
        answer = str(item.answer)
        assert len(answer) == 9 == item.metrics["tokens"]
        assert item.outcome == 1.0
        expected = -log_likelihood(f"User: {item.id}\nAssistant:", answer)
        assert item.metrics["nll"] == pytest.approx(expected, rel=1e-4)


def test_another_model_follows_the_dense_answers_and_gives_its_own() -> None:
    dense = talk(0)
    other = talk(1, references={"talk": dense})
    assert other.score < 1.0
    assert [item.answer for item in other.items] != [item.answer for item in dense.items]
    assert [item.prompt_hash for item in other.items] == [item.prompt_hash for item in dense.items]
    alone = talk(1)
    assert alone.score == 1.0, "without a dense model the own answers are followed"
    assert [item.prompt_hash for item in alone.items] != [item.prompt_hash for item in dense.items]


def test_a_dense_evaluation_of_other_items_is_an_error() -> None:
    part = talk(0, limit=2)
    with pytest.raises(EvaluationError, match="no answer to item"):
        talk(1, references={"talk": part})


def test_conversations_in_the_form_of_the_tokenizer() -> None:
    from copy import deepcopy

    assert fitting.chat_form(tiny.tokenizer())(by_turns(["Hi", " Hello.", "Go on"])) == (
        "User: Hi\nAssistant: Hello.\nUser: Go on\nAssistant:"
    )
    tokenizer = deepcopy(tiny.tokenizer())
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    written = fitting.chat_form(tokenizer)(by_turns(["Hi", "Hello.", "Go on"]))
    assert written == "<user>Hi<assistant>Hello.<user>Go on<assistant>"


def lengths(limit: int | None = None, room: int = 40, leave_out: bool = True) -> fitting.Selection:
    """Items of 5, 10, 15 … 50 bytes, each also in a form of half the length if it is divisible by 20."""
    ask = Ask("answer", "answer", "prompt", lambda item, answer: {}, max_tokens=4)

    def shorter(item: Item) -> list[Item]:
        size = len(item["prompt"])
        return [item, *([{**item, "prompt": "x" * (size // 2)}] if size % 20 == 0 else [])]

    items = [{"id": str(size), "prompt": "x" * size} for size in range(5, 51, 5)]
    family = Family("f", "m", "binary", items, (ask,), leave_out=leave_out, shorter=shorter)
    return fitting.select([family], tiny.tokenizer(), room, limit)["f"]


def test_forms_that_fit_are_asked_and_the_others_are_counted() -> None:
    found = lengths()
    assert {item["id"]: len(item["prompt"]) for item in found.items} == {
        "5": 5, "10": 10, "15": 15, "20": 20, "25": 25, "40": 20
    }  # fmt: skip
    assert found.left_out == 4
    assert len(lengths(leave_out=False).items) == 10


def test_a_limit_is_reached_with_items_that_fit() -> None:
    for limit in range(1, 7):
        found = lengths(limit)
        assert len(found.items) == limit
        assert {item["id"] for item in found.items} <= {item["id"] for item in lengths().items}
    with pytest.raises(EvaluationError, match="no item of the suite fits into the 12 tokens"):
        lengths(room=12)


def test_an_answer_takes_at_most_a_quarter_of_the_room() -> None:
    ask = conversation().asks[0]
    assert [fitting.longest_answer(ask, room) for room in (512, 36, 20, 2)] == [9, 9, 5, 1]
