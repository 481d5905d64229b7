"""Whether an answer is right, and measures of texts beside it. Standard library, and rouge-score for ROUGE-L.

An answer is what the model wrote, never the prompt; only its first line counts; an empty answer is wrong; the gold
answer must stand in it whole words at a time (one way: an answer inside the gold answer is no hit).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

_TOKEN = re.compile(r"\d+(?:[.,]\d+)+|\w+")  # numbers keep their separators: 5 does not stand in 1.5
_ARTICLES = frozenset({"a", "an", "the"})


def first_line(text: str) -> str:
    """Returns the first line, stripped; empty when the text begins with a line break."""
    return text.partition("\n")[0].strip()


def tokens(text: str) -> list[str]:
    """Returns the words without case, punctuation and articles; articles alone are kept."""
    words = _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    return [word for word in words if word not in _ARTICLES] or words


def contains(answer: str, gold: Sequence[str]) -> bool:
    """Returns whether a gold answer stands in the first line of `answer` as whole words."""
    said = tokens(first_line(answer))
    return any(_stands_in(wanted, said) for wanted in map(tokens, gold) if wanted)


def exact(answer: str, gold: Sequence[str]) -> bool:
    """Returns whether the first line is a gold answer and nothing else."""
    said = tokens(first_line(answer))
    return bool(said) and any(said == tokens(one) for one in gold)


def f1(answer: str, gold: Sequence[str]) -> float:
    """Returns the F1 of the words of the first line, 0 to 1, of the gold answer that fits best."""
    said = tokens(first_line(answer))
    return max((_overlap(said, tokens(one)) for one in gold), default=0.0)


def kept(answer: str, key_facts: Sequence[str]) -> float:
    """Returns the share, 0 to 1, of the key facts that stand in the first line."""
    return sum(contains(answer, [fact]) for fact in key_facts) / len(key_facts)


def distinct_3(text: str) -> float:
    """Returns the share of different ones among the runs of three words: near 0 for a model that repeats itself.

    A text of one or two words counts as 1, an empty one as 0.
    """
    words = tokens(text)
    runs = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return len(set(runs)) / len(runs) if runs else float(bool(words))


def rouge_l(answer: str, reference: str) -> float:
    """Returns the F-measure of ROUGE-L, 0 to 1."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


def _stands_in(wanted: list[str], said: list[str]) -> bool:
    return any(said[i : i + len(wanted)] == wanted for i in range(len(said) - len(wanted) + 1))


def _overlap(said: list[str], wanted: list[str]) -> float:
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0
