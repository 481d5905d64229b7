"""Suites: subsets, and what kick-atlas grades as right."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import pytest

from compress.errors import EvaluationError
from compress.evaluation import suites
from compress.evaluation.suites.base import Family
from tests.support import tiny_suite as tiny


def family(count: int = 100) -> Family:
    items = [{"id": f"{'rare' if i % 10 == 0 else 'often'}/{i}"} for i in range(count)]
    return Family("f", "m", "binary", items, (), stratum=lambda item: item["id"].split("/")[0])


def test_a_subset_keeps_the_proportions_and_the_order() -> None:
    chosen = [item["id"] for item in family().subset(30)]
    assert Counter(key.split("/")[0] for key in chosen) == {"rare": 3, "often": 27}
    places = [int(key.split("/")[1]) for key in chosen]
    assert places == sorted(places)
    assert places != list(range(30)), "the first n are no sample"


def test_a_subset_is_seeded_and_part_of_the_larger_one() -> None:
    def ids(limit: int, seed: int = 0) -> set[str]:
        return {item["id"] for item in family().subset(limit, seed)}

    assert ids(20) == ids(20)
    assert ids(20) != ids(20, seed=1)
    assert ids(20) < ids(50)
    assert len(ids(500)) == 100


def test_an_unknown_suite_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(EvaluationError, match=r"did you mean 'kick-atlas'\?"):
        suites.load("kick-atlsa")


def test_the_hash_of_the_items_sees_every_item() -> None:
    one, other, changed = tiny.suite(), tiny.suite(), tiny.suite()
    assert one.items_sha256 == other.items_sha256
    changed.families[0].items[3]["prompt"] += " "
    assert one.items_sha256 != changed.items_sha256


def test_the_hash_is_that_of_all_items_as_json() -> None:
    suite = tiny.suite()
    content = {family.name: list(family.items) for family in suite.families}
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    assert suite.items_sha256 == hashlib.sha256(text.encode()).hexdigest()


def right_reply(kind: str, item: dict[str, object], name: str) -> object:
    """What a perfect model answers."""
    if kind == "choose":
        return [0.0 if i == item["gold"] else -5.0 for i in range(4)]
    if kind == "recall":
        return -3.0
    key = {"open": "answers", "closed": "closed_answers", "summary": "reference"}.get(name)
    reply = item[key or ("answers" if "answers" in item else "reference")]
    return reply[0] if isinstance(reply, list) else reply


@pytest.mark.parametrize("asked", suites.load("kick-atlas").families, ids=lambda family: family.name)
def test_kick_atlas_grades_a_perfect_and_a_mute_model(asked: Family) -> None:
    assert len(asked.items) >= 300
    assert len({item["id"] for item in asked.items}) == len(asked.items)
    for item in asked.items:
        perfect, mute = {}, {}
        for ask in asked.asks:
            reply = right_reply(ask.kind, item, ask.name)
            perfect |= ask.grade(item, reply)
            mute |= ask.grade(item, "" if ask.kind == "answer" else reply)
        assert perfect[asked.primary] == 1, item
        assert perfect.get("empty", 0.0) == 0
        if asked.name != "multiple_choice":
            assert mute[asked.primary] == 0, item
            assert mute["empty"] == 1
            assert mute.keys() == perfect.keys()


def test_a_remembered_answer_to_an_open_question_is_not_read() -> None:
    asked = next(family for family in suites.load("kick-atlas").families if family.name == "retrieval")
    open_book = asked.asks[0]
    item = asked.items[0]
    graded = open_book.grade(item, item["closed_answers"][0])
    assert graded == {"open_book": 0.0, "remembered": 1.0, "empty": 0.0}


def test_no_reference_leaks_into_its_prompt() -> None:
    summaries = next(family for family in suites.load("kick-atlas").families if family.name == "summarisation")
    assert not any(item["reference"] in item["prompt"] for item in summaries.items)
    assert all(re.search(r"Summary:$", item["prompt"]) for item in summaries.items)
