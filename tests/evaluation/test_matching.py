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


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        # scripts without spaces, and Korean with its particles
        ("北京是中国的首都。", "北京"),
        ("東京です", "東京"),
        ("パリです", "パリ"),
        ("答案是Paris。", "Paris"),
        ("กรุงเทพเป็นเมืองหลวง", "กรุงเทพ"),
        ("서울은 한국의 수도입니다", "서울"),
        ("답은 물입니다", "물"),
        ("2024年5月", "2024"),
        # combining marks, and those that are left out in writing
        ("हिन्दी भाषा", "हिन्दी"),
        ("cafe\u0301", "café"),
        ("مُحَمَّد", "محمد"),
        ("STRASSE", "Straße"),
        # numbers in other spellings
        ("−5", "-5"),
        ("It is –5 degrees", "-5"),
        ("minus 5", "-5"),
        ("+5", "5"),
        ("from 1990–1995", "1995"),
        ("1,000 people", "1000"),
        ("1000", "1,000"),
        ("1 000 000", "1000000"),
        ("10\u202f000", "10,000"),
        ("1.000.000", "1000000"),
        ("12,34,567", "1234567"),
        ("1'000", "1000"),
        ("1,5", "1.5"),
        ("1.50", "1.5"),
        (".5", "0.5"),
        ("½", "1/2"),
        ("1 1/2", "1½"),
        ("10⁶", "10^6"),
        ("२५", "25"),
        ("12/25/2020", "2020"),
        # units
        ("5km", "5 km"),
        ("5 km", "5km"),
        ("5%", "5"),
        ("-$5", "-5"),
        ("45°C", "45"),
        # symbols
        ("C++ is it", "C++"),
        ("C♯", "C#"),
        ("type O- blood", "O-"),
        ("I like 👍.", "👍"),
        ("❤\ufe0f", "❤"),
        ("The answer is != here", "!="),
        ("Paris🎉", "Paris"),
        ("Windows™", "Windows"),
        ("_Paris_", "Paris"),
        ("the vitamin a", "Vitamin A"),
        ("The blood type is “A-”", "A-"),
        # initials, and choices that look like articles
        ("the US", "U.S."),
        ("the U.S. economy", "US"),
        ("J.K. Rowling", "J. K. Rowling"),
        ("JK Rowling", "J.K.Rowling"),
        ("США", "С.Ш.А."),
        ("The answer is A.", "A"),
        ("A: Paris", "A"),
        ("The answer is B. A dog barks", "B"),
    ],
)
def test_an_answer_in_another_spelling_is_a_hit(answer: str, gold: str) -> None:
    assert matching.contains(answer, [gold])


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("コンパリソン", "パリ"),
        ("한국어입니다", "한국"),
        ("दिन", "दान"),
        ("हिन्दी", "हिन्द"),
        ("5", "-5"),
        ("-5", "5"),
        ("10 minus 5", "-5"),
        ("1/2", "2"),
        ("1½", "1/2"),
        ("1½", "112"),
        ("10^6", "6"),
        ("10⁶", "106"),
        ("1e6", "6"),
        ("3.14", "14"),
        ("10:30", "30"),
        ("1,2,3", "2"),
        ("100 200 300", "100200300"),
        ("21st century", "21"),
        ("the 1960s", "1960"),
        ("3D", "3"),
        ("v1.5", "5"),
        ("x^2", "2"),
        ("C", "C++"),
        ("C++", "C"),
        ("C++11", "C"),
        ("C#", "C++"),
        ("O+", "O-"),
        ("👍🏽", "👍"),
        ("👨\u200d👩\u200d👧", "👨"),
        ("==", "="),
        ("Vitamin C", "Vitamin A"),
        ("A dog barks", "A"),
        ("A+", "A"),
        ("The answer is B. A dog barks", "BA"),
    ],
)
def test_what_only_looks_alike_is_no_hit(answer: str, gold: str) -> None:
    assert not matching.contains(answer, [gold])


def test_a_gold_answer_without_a_word_matches_by_its_symbols() -> None:
    assert matching.exact("🐍", ["🐍"]) and matching.f1("🐍", ["🐍"]) == 1
    assert matching.can_match("🐍") and matching.can_match("...") and matching.can_match("The The")
    assert not any(map(matching.can_match, ("", " ", "\u200b", "\ufeff")))


def test_measures_know_other_scripts_too() -> None:
    assert matching.rouge_l("北京很大", "北京很大") == pytest.approx(1)
    assert 0 < matching.rouge_l("北京很大", "北京很小") < 1
    assert matching.distinct_3("哈哈哈哈哈哈") == pytest.approx(1 / 4)
    assert not matching.exact("Vitamin", ["Vitamin A"])
