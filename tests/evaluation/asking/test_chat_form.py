"""Chat models are asked through their template, base models that have one are not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from compress.errors import EvaluationError
from compress.evaluation import compare, evaluate
from compress.evaluation.asking.chat_form import dressed, is_chat_model, resolve
from compress.evaluation.suites import load
from tests.support import kick_data
from tests.support import tiny_suite as tiny

CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ end }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer(end: str = "<eos>") -> Any:
    found = copy.deepcopy(tiny.tokenizer())
    found.chat_template = CHATML.replace("{{ end }}", end)
    return found


def test_a_chat_model_ends_its_turn_where_generation_stops() -> None:
    assert is_chat_model(tokenizer(), {0})
    assert not is_chat_model(tokenizer("|end|"), {0}), "a base model with a template that it was not trained on"
    assert not is_chat_model(tiny.tokenizer(), {0})
    assert resolve("auto", tokenizer(), {0}) == "answers"
    assert resolve("auto", tiny.tokenizer(), {0}) == resolve("never", tokenizer(), {0}) == "never"
    with pytest.raises(EvaluationError, match="did you mean 'never'"):
        resolve("nevr", tokenizer(), {0})
    with pytest.raises(EvaluationError, match="has no chat template"):
        resolve("always", tiny.tokenizer(), {0})


def test_only_what_the_model_says_itself_is_asked_in_the_chat(tmp_path: Path) -> None:
    families = load("kick", kick_data.write(tmp_path / "data")).families
    asked = {family.name: family for family in dressed(families, tokenizer(), "answers")}
    (fact,) = asked["factoid"].asks
    item = next(iter(asked["factoid"].shorter(asked["factoid"].items[0])))
    plain = families[0].items[0]["prompt"]
    assert item[fact.prompt] == f"<user>{plain}<eos>\n<assistant>"
    assert asked["multiple_choice"] == families[1]
    assert [ask.prompt for ask in asked["summarisation"].asks] == ["prompt_in_chat", "prompt"]
    assert asked["instruction"] == families[-1], "these are conversations already"


def test_always_asks_for_choices_too_without_their_leading_space(tmp_path: Path) -> None:
    families = load("kick", kick_data.write(tmp_path / "data")).families
    choices = dressed(families, tokenizer(), "always")[1]
    ask = choices.asks[0]
    item = next(iter(choices.shorter(choices.items[0])))
    assert item[ask.prompt].startswith("<user>The following are")
    assert item[ask.target] == ["A", "B", "C", "D"]
    assert choices.asks[1] == families[1].asks[1], "a text that goes on from its prompt cannot be an answer"


def test_the_form_is_recorded_and_evaluations_of_two_forms_do_not_pair() -> None:
    options: dict[str, Any] = {"tokenizer": tokenizer(), "suite": tiny.suite(), "limit": 3}
    chat, plain = evaluate(tiny.model(), **options), evaluate(tiny.model(), chat="never", **options)
    assert (chat.settings["chat"], plain.settings["chat"]) == ("answers", "never")
    assert [a.prompt_hash != b.prompt_hash for a, b in zip(chat.families["said"].items, plain.families["said"].items,
                                                           strict=True)] == [True] * 3  # fmt: skip
    assert chat.families["chosen"] == plain.families["chosen"]
    with pytest.raises(EvaluationError, match="asked with chat 'answers' and 'never'"):
        compare(chat, plain)
    followed = evaluate(tiny.model(), baseline=plain, **options)
    assert followed.settings["chat"] == "never", "the form of the baseline is taken over"
