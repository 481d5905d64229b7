"""Decides whether an answer is right, and measures texts (F1, ROUGE-L, repetition). Needs rouge-score for ROUGE-L only.

An answer is what the model wrote, never the prompt; only its first line counts; an empty answer is wrong; the gold
answer must stand in it as whole words (one way: an answer inside the gold answer is no hit). `evaluation.words` defines
what a word is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from compress.evaluation.words import hangul, symbols, words

_ARTICLES = frozenset({"a", "an", "the"})
# Particles and endings that Korean writes against a noun: 서울은 holds 서울, 한국어 does not hold 한국.
_PARTICLES = frozenset(
    particle
    for line in (
        "은 는 이 가 을 를 의 에 에서 에게 께서 로 으로 와 과 도 만 나 이나 부터 까지",
        "보다 처럼 랑 이랑 하고 에는 에도 에서는 로서 으로서",
        "다 이다 입니다 이에요 예요 이야 야 요 이요 이며 며 이고 고 인",
        "라고 이라고 라는 이라는 란 이란 였다 이었다 였습니다 이었습니다",
    )
    for particle in line.split()
)


def first_line(text: str) -> str:
    """Returns the first line, stripped; empty when the text begins with a line break."""
    return text.partition("\n")[0].strip()


def tokens(text: str) -> list[str]:
    """Returns the tokens for comparing answers: words without articles, else the articles alone, else symbols."""
    return _content(text) or symbols(text)


def can_match(gold: str) -> bool:
    """Returns whether any answer can contain `gold`: it has a word or a visible symbol."""
    return bool(tokens(gold))


def contains(answer: str, gold: Sequence[str]) -> bool:
    """Returns whether the first line of `answer` contains a gold answer as whole words."""
    line = first_line(answer)
    return any(_holds(line, wanted) for wanted in gold)


def exact(answer: str, gold: Sequence[str]) -> bool:
    """Returns whether the first line equals a gold answer, ignoring articles."""
    line = first_line(answer)
    said = tokens(line)
    return bool(said) and any(said == tokens(wanted) and _holds(line, wanted) for wanted in gold)


def f1(answer: str, gold: Sequence[str]) -> float:
    """Returns the F1 of the words of the first line against the best-fitting gold answer, 0 to 1."""
    said = tokens(first_line(answer))
    return max((_overlap(said, tokens(wanted)) for wanted in gold), default=0.0)


def kept(answer: str, key_facts: Sequence[str]) -> float:
    """Returns the share of the key facts that the first line contains, 0 to 1."""
    return sum(contains(answer, [fact]) for fact in key_facts) / len(key_facts)


def has_words(text: str) -> bool:
    """Returns whether `text` contains a word."""
    return bool(words(text))


def distinct_3(text: str) -> float:
    """Returns the share of distinct trigrams of words, 0 to 1: near 0 for a text that repeats itself.

    A text of one or two words gives 1, a text without words 0.
    """
    said = _content(text)
    runs = [tuple(said[i : i + 3]) for i in range(len(said) - 2)]
    return len(set(runs)) / len(runs) if runs else float(bool(said))


def rouge_l(answer: str, reference: str) -> float:
    """Returns the F-measure of ROUGE-L, 0 to 1.

    ASCII references are split by rouge-score's own tokenizer. It drops all non-ASCII letters, so other references are
    split by `words`.
    """
    return float(_rouge(reference.isascii()).score(reference, answer)["rougeL"].fmeasure)


class _Words:
    """Adapts `words` to rouge-score's tokenizer interface."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _rouge(of_ascii: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=None if of_ascii else _Words())


def _content(text: str) -> list[str]:
    """Returns the words without articles; a text of articles only is returned whole."""
    said = words(text)
    return [word for word in said if word not in _ARTICLES] or said


def _holds(line: str, gold: str) -> bool:
    wanted = words(gold)
    if not wanted:
        return _stands_in(symbols(gold), symbols(line))
    if len(wanted) == 1 and wanted[0] in _ARTICLES:  # choice A
        return bool(_alone(wanted[0]).search(line))
    while len(wanted) > 1 and wanted[0] in _ARTICLES:
        wanted = wanted[1:]
    if len(wanted) > 1 and wanted[-1] in _ARTICLES:  # vitamin A: the letter is no article
        return _stands_in(wanted, words(line))
    return _stands_in(_content(gold), _content(line))


@cache
def _alone(article: str) -> re.Pattern[str]:
    """The pattern of a letter or word that would be an article if another word followed it."""
    return re.compile(rf"(?<!\w){article}(?![\w+#^-])(?!\s+\w)", re.IGNORECASE)


def _stands_in(wanted: list[str], said: list[str]) -> bool:
    if not wanted:
        return False
    *before, last = wanted
    ends = range(len(before), len(said))
    return any(said[end - len(before) : end] == before and _is_word(said[end], last) for end in ends)


def _is_word(said: str, wanted: str) -> bool:
    """Whether both words are equal, or the first is the second plus a Korean particle.

    A word of one syllable needs a particle of two or more, since a shorter one is often part of another word.
    """
    if said == wanted:
        return True
    if not (hangul(wanted) and said.startswith(wanted)):
        return False
    particle = said[len(wanted) :]
    return particle in _PARTICLES and len(wanted) + len(particle) > 2


def _overlap(said: list[str], wanted: list[str]) -> float:
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0
