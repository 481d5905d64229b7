"""Instructions whose answers a program can check: ten kinds over a fixed list of everyday words."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORDS: tuple[str, ...] = _words(
    """
    apple bear cloud door eagle flower garden honey island jacket kettle lemon mountain needle onion pencil
    queen river snow table uncle violin window yellow zebra bread candle drum egg forest glass horse iron jewel
    king lamp moon nest orange paper rose salt train umbrella valley water arrow boat castle dog engine fish
    gold hill ink ladder mirror night ocean plum ring stone tower village wolf
    """
)


@dataclass(frozen=True)
class Instruction:
    """`kind` and `words` (and `count`) are all that a checker needs; `answer` is the only right answer."""

    kind: str
    words: tuple[str, ...]
    count: int
    text: str
    answer: str


def solve(kind: str, words: tuple[str, ...], count: int) -> str:
    """The right answer."""
    return _SOLVERS[kind](words, count)


_SOLVERS: dict[str, Callable[[tuple[str, ...], int], str]] = {
    "repeat": lambda words, count: " ".join(words * count),
    "upper": lambda words, count: " ".join(words).upper(),
    "first": lambda words, count: words[0],
    "last": lambda words, count: words[-1],
    "reverse": lambda words, count: " ".join(reversed(words)),
    "commas": lambda words, count: ", ".join(words),
    "and": lambda words, count: " and ".join(words),
    "sort": lambda words, count: " ".join(sorted(words)),
    "quote": lambda words, count: f'"{" ".join(words)}"',
    "without": lambda words, count: " ".join(words[:count] + words[count + 1 :]),
}

KINDS: tuple[str, ...] = tuple(_SOLVERS)
_LENGTHS = {"repeat": (1,), "upper": (1, 2), "first": (3, 4), "last": (3, 4), "reverse": (3,), "commas": (3, 4)}
_LENGTHS |= {"and": (2, 3), "sort": (2,), "quote": (2, 3), "without": (3,)}
_WORDINGS: dict[str, tuple[str, ...]] = {
    "repeat": ("Write the word {w} {n} times.", "Repeat {n} times: {w}"),
    "upper": ("Write in upper case: {w}", "Put into capital letters: {w}"),
    "first": ("Give the first word of: {w}", "Which word comes first in: {w}"),
    "last": ("Give the last word of: {w}", "Which word comes last in: {w}"),
    "reverse": ("Reverse the order of: {w}", "Write backwards, word by word: {w}"),
    "commas": ("Join with commas: {w}", "Write as a list with commas: {w}"),
    "and": ('Join with "and": {w}', 'Put "and" between the words: {w}'),
    "sort": ("Sort by the alphabet: {w}", "Put into alphabetical order: {w}"),
    "quote": ("Put in quotation marks: {w}", "Write in quotes: {w}"),
    "without": ("Leave out the word {x}: {w}", "Write without {x}: {w}"),
}


def instruction(rng: random.Random, kind: str | None = None) -> Instruction:
    """A random instruction, of the given kind if one is given."""
    kind = kind or rng.choice(KINDS)
    words = tuple(rng.sample(WORDS, rng.choice(_LENGTHS[kind])))
    while kind == "sort" and words[0][0] == words[1][0]:
        words = tuple(rng.sample(WORDS, 2))
    count = {"repeat": rng.randrange(2, 5), "without": rng.randrange(0, 3)}.get(kind, 0)
    wording = rng.choice(_WORDINGS[kind])
    text = wording.format(
        w=" ".join(words), n=("zero", "one", "two", "three", "four")[count], x=words[count % len(words)]
    )
    return Instruction(kind, words, count, text, solve(kind, words, count))
