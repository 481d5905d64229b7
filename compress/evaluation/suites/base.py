"""Defines the classes of a suite: families of items with their prompts, grading and primary metric."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from compress.texts.chat import Message

Item = dict[str, Any]
"""Has `id`, a string that is unique in its family. Optional: `cluster`, shared by items that are not independent
(questions about one passage or one subject), and `chance`, the score of guessing."""


@dataclass(frozen=True, slots=True)
class Followed:
    """Teacher-forced scores of a text under a model."""

    nll: float
    """Nats, summed over the tokens of the text."""
    tokens: int
    agreed: int
    """Number of tokens that are also the model's likeliest next token."""


Reply = str | list[float] | float | Followed
"""By kind of question: `answer`: the generated text; `choose` and `complete`: the log-likelihoods of the choices;
`recall`: the log-likelihood of the text; `follow`: the teacher-forced scores of the text."""

Chat = Callable[[Sequence[Message]], str]
"""Function from the messages of a conversation to the prompt for the next answer."""


@dataclass(frozen=True)
class Ask:
    """One question, asked for every item of a family; it becomes one lm-eval task."""

    name: str
    kind: Literal["answer", "choose", "complete", "recall", "follow"]
    """`answer`: greedy generation up to `stop`. `choose`: likelihood of every choice. `complete`: likelihood of one
    text after each prompt. `recall`: likelihood of one text. `follow`: likelihood of one text, and the number of
    its tokens that are the likeliest."""
    prompt: str
    """Key of the item's prompt (`complete`: of its prompts). Items without this key are not asked."""
    grade: Callable[[Item, Any], dict[str, float]]
    """Function from item and reply to metrics; it returns the same metrics for every item."""
    target: str = ""
    """Key of the choices (`choose`) or of the text, exactly as it continues the prompt, leading space included."""
    max_tokens: int = 32
    """Largest answer length in tokens."""
    stop: tuple[str, ...] = ("\n",)
    """Strings that end an answer, in addition to the end-of-text token."""
    pick: Callable[[Item, list[float]], int] = lambda item, log_likelihoods: log_likelihoods.index(max(log_likelihoods))
    """Function from item and log-likelihoods to the index of the model's choice."""
    needs: tuple[str, ...] = ()
    """Names of the questions whose reference answers are part of the prompt or target (`Family.prepare`)."""


@dataclass(frozen=True)
class Family:
    """Items of one kind. `primary` names the metric that is paired and judged; the other metrics are only reported."""

    name: str
    primary: str
    kind: Literal["binary", "continuous"]
    items: Sequence[Item]
    asks: tuple[Ask, ...]
    chance: float = 0.0
    """The score of guessing."""
    stratum: Callable[[Item], str] = lambda item: ""
    """Function from an item to its stratum; a subset keeps the proportions of the strata."""
    leave_out: bool = False
    """Whether items that are too long for the model are left out and counted; otherwise they raise an error."""
    shorter: Callable[[Item], Iterable[Item]] = lambda item: (item,)
    """Function from an item to its forms, longest first; the first form that fits the model is asked."""
    prepare: Callable[[Item, Mapping[str, str], Chat], Item] | None = None
    """Function from item, reference answers by question, and chat form to the item with the prompts and targets that
    depend on those answers. Answers of such a family keep their white space."""
    derive: Callable[[Item, Mapping[str, str | int], Mapping[str, float]], dict[str, float]] | None = None
    """Function from item, answers, and the metrics of all questions to the final metrics of the item."""

    @property
    def is_written(self) -> bool:
        """Whether the model writes answers to some of its questions."""
        return any(ask.kind == "answer" for ask in self.asks)

    def subset(self, limit: int | None, seed: int = 0) -> list[Item]:
        """Returns at most `limit` items in suite order, sampled in proportion to the strata.

        With the same seed, a smaller subset is contained in every larger one.
        """
        order = self.order(seed)
        return [self.items[index] for index in sorted(order[:limit])]

    def order(self, seed: int = 0) -> list[int]:
        """Returns the indices of all items in sampling order; a subset is a prefix of it."""
        strata: dict[str, list[int]] = defaultdict(list)
        for index, item in enumerate(self.items):
            strata[self.stratum(item)].append(index)
        keyed: list[tuple[float, int]] = []
        for stratum, members in strata.items():
            rng = random.Random(f"{seed}/{self.name}/{stratum}")
            rng.shuffle(members)
            offset = rng.random()
            keyed += [((place + offset) / len(members), index) for place, index in enumerate(members)]
        return [index for _, index in sorted(keyed)]


@dataclass(frozen=True)
class Suite:
    """Families of items, and held-out text for perplexity and divergence."""

    name: str
    version: int
    """Increased with every change after which outcomes cannot be compared with earlier ones."""
    families: tuple[Family, ...]
    heldout: Callable[[], list[str]]
    """Documents for perplexity and divergence."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Source of each dataset: a file, or a hub id with its revision. Empty for bundled suites."""
    warnings: tuple[str, ...] = ()
    """Messages about missing datasets."""

    @cached_property
    def items_sha256(self) -> str:
        """SHA-256 of all items, as JSON by families. Results with the same hash have the same items."""
        items = {family.name: family.items for family in self.families}
        digest = hashlib.sha256(b"{")
        for number, name in enumerate(sorted(items)):
            digest.update(f"{', ' if number else ''}{_json(name)}: [".encode())
            for place, item in enumerate(items[name]):  # one by one: the text of all takes hundreds of megabytes
                digest.update(f"{', ' if place else ''}{_json(item)}".encode())
            digest.update(b"]")
        digest.update(b"}")
        return digest.hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
