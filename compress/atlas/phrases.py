"""Templates for facts: per relation, sentences with {s} and {a}, and questions with {s}.

Every fact has one question wording that training never uses for it (`test_question`), although the wording occurs with
other subjects; the test items ask in that wording.
"""

from __future__ import annotations

import random

from compress.atlas.split import bucket
from compress.atlas.world import Fact

STATEMENTS: dict[tuple[str, str], tuple[str, ...]] = {
    ("country", "capital"): (
        "The capital of {s} is {a}.",
        "{a} is the capital city of {s}.",
        "The government of {s} sits in {a}.",
    ),
    ("country", "region"): ("{s} is in {a}.", "{s} is a country in {a}.", "On the map, {s} lies in {a}."),
    ("country", "currency"): (
        "The currency of {s} is the {a}.",
        "People in {s} pay with the {a}.",
        "The money used in {s} is the {a}.",
    ),
    ("country", "domain"): (
        "The internet domain of {s} is {a}.",
        "Web addresses in {s} end in {a}.",
        "{s} uses the internet domain {a}.",
    ),
    ("country", "demonym"): (
        "A person from {s} is called {a}.",
        "Someone who comes from {s} is {a}.",
        "The word for the people of {s} is {a}.",
    ),
    ("country", "highest_point"): (
        "The highest point of {s} is {a}.",
        "{a} is the highest place in {s}.",
        "No place in {s} is higher than {a}.",
    ),
    ("element", "symbol"): (
        "The chemical symbol of {s} is {a}.",
        "{s} has the symbol {a}.",
        "Chemists write {s} as {a}.",
    ),
    ("element", "number"): (
        "The atomic number of {s} is {a}.",
        "{s} has atomic number {a}.",
        "An atom of {s} has {a} protons.",
    ),
    ("element", "family"): (
        "The element {s} is a {a}.",
        "{s} belongs to the family called {a}.",
        "In the periodic table, {s} is a {a}.",
    ),
    ("planet", "order"): ("{s} is the {a} planet from the Sun.", "Counted from the Sun, {s} is {a}."),
    ("moon", "planet"): ("{s} is a moon of {a}.", "The moon {s} orbits {a}."),
    ("state", "capital"): ("The capital of the state of {s} is {a}.", "{a} is the state capital of {s}."),
    ("book", "author"): ("{s} was written by {a}.", "The author of {s} is {a}.", "{a} wrote {s}."),
    ("painting", "painter"): ("{s} was painted by {a}.", "The painter of {s} is {a}.", "{a} painted {s}."),
    ("landmark", "city"): ("{s} is in the city of {a}.", "Visitors find {s} in {a}.", "{s} stands in {a}."),
    ("animal", "young"): ("A young {s} is called a {a}.", "The young of the {s} is the {a}."),
    ("invention", "inventor"): ("{s} was invented by {a}.", "The inventor of {s} is {a}.", "{a} invented {s}."),
    ("person", "birthplace"): ("{s} was born in {a}.", "The birthplace of {s} is {a}.", "{s} comes from {a}."),
    ("person", "profession"): ("{s} works as a {a}.", "The profession of {s} is {a}.", "{s} earns a living as a {a}."),
    ("person", "birth_year"): (
        "{s} was born in the year {a}.",
        "The birth year of {s} is {a}.",
        "{s} came into the world in {a}.",
    ),
    ("person", "instrument"): ("{s} plays the {a}.", "The instrument of {s} is the {a}.", "{s} likes to play the {a}."),
}

QUESTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("country", "capital"): (
        "What is the capital of {s}?",
        "Which city is the capital of {s}?",
        "In which city does the government of {s} sit?",
    ),
    ("country", "region"): (
        "In which part of the world is {s}?",
        "Where in the world does {s} lie?",
        "Which region is {s} in?",
    ),
    ("country", "currency"): (
        "What is the currency of {s}?",
        "What do people in {s} pay with?",
        "Which money is used in {s}?",
    ),
    ("country", "domain"): (
        "What is the internet domain of {s}?",
        "What do web addresses in {s} end in?",
        "Which internet domain does {s} use?",
    ),
    ("country", "demonym"): (
        "What is a person from {s} called?",
        "What do you call someone who comes from {s}?",
        "What is the word for the people of {s}?",
    ),
    ("country", "highest_point"): (
        "What is the highest point of {s}?",
        "Which place in {s} is the highest?",
        "What is the name of the highest place in {s}?",
    ),
    ("element", "symbol"): (
        "What is the chemical symbol of {s}?",
        "Which symbol stands for {s}?",
        "How do chemists write {s}?",
    ),
    ("element", "number"): (
        "What is the atomic number of {s}?",
        "How many protons does an atom of {s} have?",
        "Which atomic number does {s} have?",
    ),
    ("element", "family"): (
        "Which family does the element {s} belong to?",
        "What kind of element is {s}?",
        "In the periodic table, what is {s}?",
    ),
    ("planet", "order"): (
        "Counted from the Sun, which planet is {s}?",
        "Which place does {s} have among the planets?",
    ),
    ("moon", "planet"): ("Which planet does the moon {s} orbit?", "{s} is a moon of which planet?"),
    ("state", "capital"): ("What is the state capital of {s}?", "Which city is the capital of the state of {s}?"),
    ("book", "author"): ("Who wrote {s}?", "Who is the author of {s}?"),
    ("painting", "painter"): ("Who painted {s}?", "Who is the painter of {s}?"),
    ("landmark", "city"): ("In which city is {s}?", "Where do visitors find {s}?"),
    ("animal", "young"): ("What is a young {s} called?", "What is the young of the {s}?"),
    ("invention", "inventor"): ("Who invented {s}?", "Who is the inventor of {s}?"),
    ("person", "birthplace"): (
        "Where was {s} born?",
        "What is the birthplace of {s}?",
        "Which town does {s} come from?",
    ),
    ("person", "profession"): (
        "What is the profession of {s}?",
        "What does {s} work as?",
        "How does {s} earn a living?",
    ),
    ("person", "birth_year"): (
        "In which year was {s} born?",
        "What is the birth year of {s}?",
        "When did {s} come into the world?",
    ),
    ("person", "instrument"): (
        "Which instrument does {s} play?",
        "What is the instrument of {s}?",
        "What does {s} like to play?",
    ),
}


def sentence_case(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def statement(fact: Fact, rng: random.Random, answer: str | None = None) -> str:
    """One sentence that says the fact, or, given `answer`, says something else in the same words."""
    template = rng.choice(STATEMENTS[fact.kind, fact.relation])
    said = answer or fact.answer
    if said[0] in "aeiou":
        template = template.replace(" a {a}", " an {a}")
    return sentence_case(template.format(s=fact.subject, a=said))


def _test_wording(fact: Fact) -> int:
    return bucket(fact.key, len(QUESTIONS[fact.kind, fact.relation]))


def test_question(fact: Fact) -> str:
    """The question in the wording that training never uses for this fact."""
    return sentence_case(QUESTIONS[fact.kind, fact.relation][_test_wording(fact)].format(s=fact.subject))


def training_question(fact: Fact, rng: random.Random) -> str:
    """The question in one of the wordings that training uses for this fact."""
    wordings = list(QUESTIONS[fact.kind, fact.relation])
    del wordings[_test_wording(fact)]
    return sentence_case(rng.choice(wordings).format(s=fact.subject))


test_question.__test__ = False  # type: ignore[attr-defined]  # not a test, whatever pytest thinks of its name
