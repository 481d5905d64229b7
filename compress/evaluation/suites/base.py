"""What a suite is: families of items, and for every item what is asked, how it is graded and what counts."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Item = dict[str, Any]
"""At least `id`, a string that is unique in its family."""
Reply = str | list[float] | float
"""To `answer` the text of the model, to `choose` the log-likelihoods of the choices, to `recall` that of the text."""


@dataclass(frozen=True)
class Ask:
    """One question asked of every item of a family; it becomes one lm-eval task."""

    name: str
    kind: Literal["answer", "choose", "recall"]
    """`answer`: greedy text up to the line break. `choose`: likelihood of every choice. `recall`: that of a text."""
    prompt: str
    """Key of the item's prompt."""
    grade: Callable[[Item, Any], dict[str, float]]
    """Item and reply -> metrics, the same ones for every item."""
    target: str = ""
    """Key of the choices (`choose`) or of the text (`recall`), given as the model must write them after the prompt."""
    max_tokens: int = 32
    """Longest answer, in tokens."""


@dataclass(frozen=True)
class Family:
    """Items of one kind. `primary` is the metric that is paired and judged; the others are shown beside it."""

    name: str
    primary: str
    kind: Literal["binary", "continuous"]
    items: Sequence[Item]
    asks: tuple[Ask, ...]
    chance: float = 0.0
    """What guessing scores."""
    stratum: Callable[[Item], str] = lambda item: ""
    """What a subset keeps the proportions of."""

    def subset(self, limit: int | None, seed: int = 0) -> list[Item]:
        """Returns at most `limit` items in suite order, drawn with the proportions of the strata.

        A smaller subset is part of every larger one of the same seed.
        """
        if limit is None or limit >= len(self.items):
            return list(self.items)
        strata: dict[str, list[int]] = defaultdict(list)
        for index, item in enumerate(self.items):
            strata[self.stratum(item)].append(index)
        keyed: list[tuple[float, int]] = []
        for stratum, members in strata.items():
            rng = random.Random(f"{seed}/{self.name}/{stratum}")
            rng.shuffle(members)
            offset = rng.random()
            keyed += [((place + offset) / len(members), index) for place, index in enumerate(members)]
        return [self.items[index] for index in sorted(index for _, index in sorted(keyed)[:limit])]


@dataclass(frozen=True)
class Suite:
    """Families of items, and text that the model was not trained on for perplexity and divergence."""

    name: str
    version: int
    """Raised with every change that makes outcomes incomparable."""
    families: tuple[Family, ...]
    heldout: Callable[[], list[str]]
    """Documents for perplexity and divergence."""

    @property
    def items_sha256(self) -> str:
        """The hash of all items: two results with the same one were asked the same questions."""
        content = {family.name: list(family.items) for family in self.families}
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
