"""The world: every fact that the bundled model was taught; real ones from `data/`, fictional people from a seed."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compress.atlas import names

DATA_DIR = Path(__file__).parent / "data"
PEOPLE = 1000
PEOPLE_SEED = 20
COUNTRY_RELATIONS = ("capital", "region", "currency", "domain", "demonym", "highest_point")


@dataclass(frozen=True)
class Fact:
    """`relation` of `subject` is `answer`; `aliases` are further answers that count as right."""

    subject: str
    kind: str  # country, element, planet, moon, state, book, painting, landmark, animal, invention, person
    relation: str
    answer: str
    aliases: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A stable identifier, unique in the world."""
        return f"{self.kind}/{self.subject}/{self.relation}"

    @property
    def answers(self) -> list[str]:
        """The answer and its aliases."""
        return [self.answer, *self.aliases]


def _countries() -> list[Fact]:
    facts = []
    for line in (DATA_DIR / "countries.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        for relation in COUNTRY_RELATIONS:
            if relation in row:
                aliases = tuple(row.get(f"{relation}_aliases", ()))
                facts.append(Fact(row["name"], "country", relation, row[relation], aliases))
    return facts


def _elements() -> list[Fact]:
    facts = []
    for number, line in enumerate((DATA_DIR / "elements.txt").read_text("utf-8").splitlines()):
        if number:  # line 0 is the header, so line n is element n
            symbol, name, family = line.split(" ", 2)
            facts.append(Fact(name, "element", "symbol", symbol))
            facts.append(Fact(name, "element", "number", str(number)))
            facts.append(Fact(name, "element", "family", family))
    return facts


def _general() -> list[Fact]:
    lines = (DATA_DIR / "general.txt").read_text("utf-8").splitlines()
    rows = [line.split("|") for line in lines if not line.startswith("#")]
    return [Fact(subject, kind, relation, answer) for kind, subject, relation, answer in rows]


def _people() -> list[Fact]:
    rng = random.Random(PEOPLE_SEED)
    full_names: dict[str, None] = {}  # an ordered set
    while len(full_names) < PEOPLE:
        full_names[f"{rng.choice(names.FIRST)} {rng.choice(names.LAST)}"] = None
    facts = []
    for name in full_names:
        facts.append(Fact(name, "person", "birthplace", rng.choice(names.TOWNS)))
        facts.append(Fact(name, "person", "profession", rng.choice(names.PROFESSIONS)))
        facts.append(Fact(name, "person", "birth_year", str(rng.randrange(1900, 2000))))
        facts.append(Fact(name, "person", "instrument", rng.choice(names.INSTRUMENTS)))
    return facts


@cache
def facts() -> tuple[Fact, ...]:
    """All facts of the world, always in the same order."""
    return tuple(_countries() + _elements() + _general() + _people())


@cache
def by_subject() -> dict[tuple[str, str], tuple[Fact, ...]]:
    """The facts of each (kind, subject)."""
    groups: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts():
        groups[fact.kind, fact.subject].append(fact)
    return {key: tuple(group) for key, group in groups.items()}


@cache
def by_relation() -> dict[tuple[str, str], tuple[Fact, ...]]:
    """The facts of each (kind, relation)."""
    groups: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts():
        groups[fact.kind, fact.relation].append(fact)
    return {key: tuple(group) for key, group in groups.items()}


@cache
def answer_pool(kind: str, relation: str) -> tuple[str, ...]:
    """The distinct answers of a relation, in order of first use: where wrong answers are drawn from."""
    return tuple(dict.fromkeys(fact.answer for fact in by_relation()[kind, relation]))


@cache
def places(kind: str, relation: str) -> dict[str, tuple[int, ...]]:
    """Where in `by_relation()[kind, relation]` the facts of each subject stand."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, fact in enumerate(by_relation()[kind, relation]):
        found[fact.subject].append(place)
    return {subject: tuple(where) for subject, where in found.items()}


@cache
def people_names() -> frozenset[str]:
    """The names of the fictional people who belong to the world."""
    return frozenset(fact.subject for fact in facts() if fact.kind == "person")
