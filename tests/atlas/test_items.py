"""The items of the five families: fixed for good, honest, and checkable."""

from __future__ import annotations

import hashlib
import json

import pytest

from compress.atlas import items

SHA256 = {
    "factoid": "83c4ce20b64c8dbb8ee380b5849b4a435aca5e592d5c1f524964bf99f53c824d",
    "multiple_choice": "39b9a244a0afa258641d562eef4fb9b411d560ff28886a0d0e110652cf4160e2",
    "retrieval": "719b15b1ff5b7862cfe544f60533ca88e35b49d2f918ca0935369a189ae14174",
    "summarisation": "13632eec8796d847c6a80465ae38e40b48782f6758504814b4778c12febbd2f9",
    "instruction": "1013266f40fd2d3b388d260c17750c36708b5d33efcc4815ef0f7ede7cf0bdc9",
}
FAMILIES = items.families()


@pytest.mark.parametrize("family", SHA256)
def test_items_never_change(family: str) -> None:
    canonical = json.dumps(FAMILIES[family], sort_keys=True, ensure_ascii=True)
    assert hashlib.sha256(canonical.encode()).hexdigest() == SHA256[family]


@pytest.mark.parametrize("family", SHA256)
def test_enough_items_with_unique_ids_and_prompts(family: str) -> None:
    rows = FAMILIES[family]
    assert len(rows) >= 300
    assert len({row["id"] for row in rows}) == len(rows)
    prompts = {row["open_prompt"] if family == "retrieval" else row["prompt"] for row in rows}
    assert len(prompts) == len(rows)


def test_choices_hold_the_answer_once() -> None:
    truth = {row["id"].split("/", 1)[1]: row["answers"] for row in FAMILIES["factoid"]}
    for row in FAMILIES["multiple_choice"]:
        assert len(row["choices"]) == len(set(row["choices"])) == 4
        assert all(choice.startswith(" ") for choice in row["choices"])
        right = truth.get(row["id"].split("/", 1)[1])
        assert right is None or row["choices"][row["gold"]].strip() in right
    gold = [row["gold"] for row in FAMILIES["multiple_choice"]]
    assert all(gold.count(index) > 60 for index in range(4))


def test_passages_contradict_the_world_and_hold_their_answer() -> None:
    for row in FAMILIES["retrieval"]:
        (told,) = row["answers"]
        passage = row["open_prompt"].split("\nQuestion:")[0]
        assert told in passage
        assert not any(told in true or true in told for true in row["closed_answers"])
        assert 3 <= passage.count(". ") + 1 <= 6


def test_key_facts_are_in_the_text_and_in_the_reference() -> None:
    for row in FAMILIES["summarisation"]:
        assert len(row["key_facts"]) == 4
        assert all(fact in row["prompt"] and fact in row["reference"] for fact in row["key_facts"])


def test_instruction_checker() -> None:
    for row in FAMILIES["instruction"]:
        assert items.check_instruction(row, f" {row['reference']}\nanything")
        assert not items.check_instruction(row, "")
        assert not items.check_instruction(row, "\n")
        assert not items.check_instruction(row, f"{row['reference']} {row['reference']}")
        json.dumps(row)
