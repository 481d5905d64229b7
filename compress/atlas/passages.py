"""Passages that contradict the world (open book), and texts about invented subjects with their digests (summaries)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from compress.atlas import names
from compress.atlas.phrases import statement
from compress.atlas.split import is_test
from compress.atlas.world import Fact, answer_pool, by_relation, by_subject, people_names, places


@dataclass(frozen=True)
class Passage:
    """`text` says that the relation asked of `fact` is `answer`, which is not so in the world.

    `told` is all that the text says, in any order: pairs of a fact and the untrue answer given for it.
    """

    fact: Fact
    answer: str
    text: str
    told: tuple[tuple[Fact, str], ...]


@dataclass(frozen=True)
class Digest:
    """A text, its rule-made summary, and the facts that the summary must hold."""

    text: str
    summary: str
    key_facts: tuple[str, ...]


def other_answer(fact: Fact, rng: random.Random) -> str:
    """Another answer of the same relation, neither right nor an alias nor a part of a right answer."""
    pool = answer_pool(fact.kind, fact.relation)
    while True:
        answer = rng.choice(pool)
        if not any(answer in right or right in answer for right in fact.answers):
            return answer


class _Others(Sequence[Fact]):
    """The facts of one relation but for those of one subject, without a list of a thousand for every passage."""

    def __init__(self, fact: Fact) -> None:
        self._all = by_relation()[fact.kind, fact.relation]
        self._skipped = places(fact.kind, fact.relation)[fact.subject]

    def __len__(self) -> int:
        return len(self._all) - len(self._skipped)

    def __getitem__(self, index: Any) -> Any:
        for place in self._skipped:
            index += index >= place
        return self._all[index]


def counterfactual(fact: Fact, rng: random.Random) -> Passage:
    """Three to five sentences, all untrue; one of them is about `fact`."""
    same_relation = _Others(fact)
    same_subject = [f for f in by_subject()[fact.kind, fact.subject] if f.relation != fact.relation]
    others: list[Fact] = rng.sample(same_relation, rng.choice((1, 1, 2)))
    others += rng.sample(same_subject, min(len(same_subject), rng.choice((1, 2))))
    while len(others) < 2:
        others.append(rng.choice([f for f in same_relation if f not in others]))
    told = [(fact, other_answer(fact, rng))]
    sentences = [statement(fact, rng, told[0][1])]
    for other in others:
        told.append((other, other_answer(other, rng)))
        sentences.append(statement(other, rng, told[-1][1]))
    rng.shuffle(sentences)
    return Passage(fact, told[0][1], " ".join(sentences), tuple(told))


def _invented(rng: random.Random, heads: tuple[str, ...], joint: str, tails: tuple[str, ...], test: bool) -> str:
    taken = people_names()
    while True:
        name = f"{rng.choice(heads)}{joint}{rng.choice(tails)}"
        if name not in taken and is_test(name) == test:
            return name


def _person(rng: random.Random, test: bool) -> Digest:
    name = _invented(rng, names.FIRST, " ", names.LAST, test)
    town, job = rng.choice(names.TOWNS), rng.choice(names.PROFESSIONS)
    instrument, product = rng.choice(names.INSTRUMENTS), rng.choice(names.PRODUCTS)
    needed = [
        rng.choice((f"{name} comes from {town}.", f"{name} grew up in {town}.")),
        rng.choice((f"{name} works as a {job}.", f"For many years {name} has been a {job}.")),
        rng.choice((f"On Sundays {name} plays the {instrument}.", f"{name} loves to play the {instrument}.")),
    ]
    filler = [
        f"{name} buys {product} at the market.",
        "The neighbours are fond of the music.",
        f"{name} gets up early.",
        "The house has a green door.",
    ]
    summary = f"{name} is a {job} from {town} who plays the {instrument}."
    return _digest(rng, needed, filler, summary, (name, job, town, instrument))


def _place(rng: random.Random, test: bool) -> Digest:
    name = _invented(rng, names.PLACE_HEAD, "", names.PLACE_TAIL, test)
    region = rng.choice(answer_pool("country", "region"))
    product, sight = rng.choice(names.PRODUCTS), rng.choice(names.SIGHTS)
    needed = [
        rng.choice((f"{name} is a village in {region}.", f"The village of {name} lies in {region}.")),
        rng.choice((f"{name} is known for its {product}.", f"People come to {name} to buy {product}.")),
        rng.choice((f"In the middle of {name} stands a {sight}.", f"Visitors to {name} see the {sight}.")),
    ]
    filler = [
        f"The road to {name} is narrow.",
        "The winters are long and quiet.",
        "A small river runs past the houses.",
        f"There is a school in {name}.",
    ]
    summary = f"{name} is a village in {region} with a {sight}, known for its {product}."
    return _digest(rng, needed, filler, summary, (name, region, sight, product))


def _company(rng: random.Random, test: bool) -> Digest:
    name = _invented(rng, names.LAST, " and ", names.LAST, test)
    town, product = rng.choice(names.TOWNS), rng.choice(names.PRODUCTS)
    year = str(rng.randrange(1900, 2000))
    needed = [
        rng.choice((f"{name} was founded in {year}.", f"The company {name} opened in {year}.")),
        rng.choice((f"{name} makes {product}.", f"The workers of {name} produce {product}.")),
        rng.choice((f"The factory of {name} is in {town}.", f"{name} has its office in {town}.")),
    ]
    filler = [
        "The wages are paid every week.",
        f"Many families work for {name}.",
        "The gate is closed at night.",
        f"{name} has a brass band.",
    ]
    summary = f"{name} is a company in {town}, founded in {year}, that makes {product}."
    return _digest(rng, needed, filler, summary, (name, town, year, product))


def _digest(
    rng: random.Random, needed: list[str], filler: list[str], summary: str, key_facts: tuple[str, ...]
) -> Digest:
    sentences = needed + rng.sample(filler, rng.randrange(1, 4))
    rng.shuffle(sentences)
    return Digest(" ".join(sentences), summary, key_facts)


def digest(rng: random.Random, test: bool) -> Digest:
    """Four to six sentences about an invented person, place or company, with the summary."""
    return rng.choice((_person, _place, _company))(rng, test)
