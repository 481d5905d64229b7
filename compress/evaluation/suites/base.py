"""Defines a suite: families of items, and for every item its prompt, its grading and the metric that counts."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from compress.texts.chat import Message

Item = dict[str, Any]
"""At least `id`, a string that is unique in its family. May have `cluster`: items of one cluster are not independent
(questions on one passage or of one subject); and `chance`: what guessing scores on it."""


@dataclass(frozen=True, slots=True)
class Followed:
    """How well a model follows a text that it is made to read, token by token."""

    nll: float
    """Nats, summed over the tokens of the text."""
    tokens: int
    agreed: int
    """Tokens that the model puts first itself."""


Reply = str | list[float] | float | Followed
"""To `answer` the text of the model, to `choose` and `complete` the log-likelihoods of the choices, to `recall` that of
the text, to `follow` how well the text is followed."""

Chat = Callable[[Sequence[Message]], str]
"""Messages of a conversation, answers as the model wrote them -> the prompt for the next answer."""


@dataclass(frozen=True)
class Ask:
    """One question asked of every item of a family; it becomes one lm-eval task."""

    name: str
    kind: Literal["answer", "choose", "complete", "recall", "follow"]
    """`answer`: greedy text up to `stop`. `choose`: likelihood of every choice. `complete`: that of one text after each
    of the prompts. `recall`: that of a text. `follow`: that of a text, and which of its tokens are the likeliest."""
    prompt: str
    """Key of the item's prompt (of its prompts for `complete`); an item without it is not asked."""
    grade: Callable[[Item, Any], dict[str, float]]
    """Item and reply -> metrics, the same ones for every item."""
    target: str = ""
    """Key of the choices (`choose`) or of the text, given as the model must write them after the prompt."""
    max_tokens: int = 32
    """Longest answer, in tokens."""
    stop: tuple[str, ...] = ("\n",)
    """Strings that end an answer, beside the model's own end of text."""
    pick: Callable[[Item, list[float]], int] = lambda item, log_likelihoods: log_likelihoods.index(max(log_likelihoods))
    """Item and log-likelihoods -> the choice taken."""
    needs: tuple[str, ...] = ()
    """Questions whose reference answers prompt or target are made of (`Family.prepare`)."""


@dataclass(frozen=True)
class Family:
    """Items of one kind. `primary` is the metric that is paired and judged; the others are shown beside it."""

    name: str
    primary: str
    kind: Literal["binary", "continuous"]
    items: Sequence[Item]
    asks: tuple[Ask, ...]
    chance: float = 0.0
    """The score of guessing."""
    stratum: Callable[[Item], str] = lambda item: ""
    """The stratum of the item; a subset keeps the proportions of the strata."""
    leave_out: bool = False
    """Items that are too long for the model are left out and counted, instead of being an error."""
    shorter: Callable[[Item], Iterable[Item]] = lambda item: (item,)
    """The forms of an item, the longest first; the first one that fits the model is asked."""
    prepare: Callable[[Item, Mapping[str, str], Chat], Item] | None = None
    """Item, reference answers by question, chat form -> the item with the prompts and targets that they make. Its
    answers are kept as the model wrote them, white space included."""
    derive: Callable[[Item, Mapping[str, str | int], Mapping[str, float]], dict[str, float]] | None = None
    """Item, its answers and the metrics of all its questions -> the metrics that the item has in the end."""

    def subset(self, limit: int | None, seed: int = 0) -> list[Item]:
        """Returns at most `limit` items in suite order, drawn with the proportions of the strata.

        A smaller subset is part of every larger one of the same seed.
        """
        order = self.order(seed)
        return [self.items[index] for index in sorted(order[:limit])]

    def order(self, seed: int = 0) -> list[int]:
        """Returns the indices of all items in the order in which a subset takes them."""
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
    """Families of items, and text that the model was not trained on for perplexity and divergence."""

    name: str
    version: int
    """Raised with every change that makes outcomes incomparable."""
    families: tuple[Family, ...]
    heldout: Callable[[], list[str]]
    """Documents for perplexity and divergence."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each dataset came from: a file, or a hub id with its revision. Empty for a suite of the package's own."""
    warnings: tuple[str, ...] = ()
    """What the suite lacks here."""

    @property
    def items_sha256(self) -> str:
        """The hash of all items: two results with the same one were asked the same questions."""
        content = {family.name: list(family.items) for family in self.families}
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
