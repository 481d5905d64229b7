"""The matcher, and the published defects that it must not have."""

from __future__ import annotations

import pytest

from compress.evaluation import matching


@pytest.mark.parametrize(
    "answer",
    ["Paris", " paris.", "It is Paris, of course", "PARIS\nLondon", "“Paris”"],
)
def test_a_gold_answer_in_the_first_line_is_a_hit(answer: str) -> None:
    assert matching.contains(answer, ["Lutetia", "Paris"])


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("", ["Paris"]),  # an empty string stands in every gold answer
        ("\n", ["Paris"]),
        ("P", ["Paris"]),  # one way: an answer inside the gold answer
        ("\nParis", ["Paris"]),  # only the first line
        ("London\nParis", ["Paris"]),
        ("Parisian", ["Paris"]),  # whole words
        ("a no rway", ["Norway"]),  # not across spaces
        ("the scar it left", ["cari"]),
        ("1.5", ["5"]),
        ("10,000", ["10"]),
        ("New old York", ["New York"]),
        ("anything", [""]),
        ("anything", ["..."]),
    ],
)
def test_what_is_no_hit(answer: str, gold: list[str]) -> None:
    assert not matching.contains(answer, gold)


def test_numbers_names_and_articles() -> None:
    assert matching.contains("about 10,000 people", ["10,000"])
    assert matching.contains("St. Louis", ["St Louis"])
    assert matching.contains("in The Hague", ["Hague"])
    assert matching.contains("the band The The", ["The The"]) is False  # nothing but articles is left out of answers
    assert matching.contains("the the", ["The The"])


def test_exact_and_f1_measure_chattiness_too() -> None:
    assert matching.exact("The Paris.", ["Paris"])
    assert not matching.exact("It is Paris", ["Paris"])
    assert not matching.exact("", [""])
    assert matching.f1("It is Paris", ["Paris"]) == pytest.approx(0.5)
    assert matching.f1("", ["Paris"]) == 0


def test_key_facts_are_a_share() -> None:
    assert matching.kept("Ann Lee is a judge", ["Ann Lee", "judge", "flute", "Rome"]) == 0.5
    assert matching.kept("", ["judge"]) == 0


def test_repetition_and_overlap() -> None:
    assert matching.distinct_3("so so so so so so") == pytest.approx(1 / 4)
    assert matching.distinct_3("one two three four") == 1
    assert matching.distinct_3("") == 0
    assert matching.rouge_l("the cat sat", "the cat sat") == pytest.approx(1)
    assert matching.rouge_l("", "the cat sat") == 0
