"""Plans how rows are read: equal rows once, common beginnings once, the rest in batches with little padding.

The plan depends on the rows and the limits alone, so that an evaluation that goes on after an interruption reads the
same batches and gets the same numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from compress.evaluation.reading.rows import Row

PASS = 32  # tokens whose arithmetic takes as long as one more forward pass has to wait for the weights
_LARGEST_GROUP = 64  # rows with a common beginning; bounds the time of the search


@dataclass(frozen=True)
class Limits:
    """Bounds of one forward pass."""

    rows: int
    """Rows in a batch."""
    logits: int
    """Positions whose logits are computed; a single row may need more."""
    cached: int
    """Tokens of a common beginning times rows that go on from it; at least one row goes on."""


@dataclass(frozen=True)
class Batch:
    """Different rows for one forward pass; `members` has the indices of all equal rows of each."""

    rows: tuple[Row, ...]
    members: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.tokens) for row in self.rows)

    @property
    def first(self) -> int:
        """First position that any row needs."""
        return min(row.first for row in self.rows)


@dataclass(frozen=True)
class Group:
    """Batches of rows whose first `shared` tokens are the same and are read once; 0: read from the start."""

    shared: int
    batches: tuple[Batch, ...]

    def without(self, known: Collection[int]) -> Group:
        """Returns the group without the batches whose rows are all known."""
        left = (b for b in self.batches if not all(index in known for equal in b.members for index in equal))
        return Group(self.shared, tuple(left))

    @property
    def cost(self) -> int:
        """Tokens to read, padding included; none if there is no batch."""
        read = sum(len(batch.rows) * (batch.length - self.shared) for batch in self.batches)
        return read + (self.shared if self.batches else 0)


def plan(rows: Sequence[Row], limits: Limits, *, share: bool = True) -> list[Group]:
    """Returns the groups that cover all rows; without `share` no beginning is shared."""
    equal: dict[tuple[int, ...], list[int]] = {}
    for index, row in enumerate(rows):
        equal.setdefault(row.tokens, []).append(index)
    firsts = {tokens: min(rows[index].first for index in members) for tokens, members in equal.items()}
    ordered = sorted(equal)
    runs = _runs(ordered, firsts) if share else [(i, i + 1, 0) for i in range(len(ordered))]
    alone = [ordered[start] for start, end, shared in runs if not shared]
    groups = [(0, alone)] if alone else []
    groups += [(shared, ordered[start:end]) for start, end, shared in runs if shared]
    made = []
    for shared, texts in groups:
        # the longest first, so that memory runs out at the start; rows of one length in the order of their indices
        texts = sorted(texts, key=lambda tokens: (-len(tokens), equal[tokens][0]))
        batches = [
            Batch(tuple(Row(t, firsts[t]) for t in part), tuple(tuple(equal[t]) for t in part))
            for part in _parts(texts, firsts, shared, limits)
        ]
        made.append(Group(shared, tuple(batches)))
    return made


def _runs(ordered: list[tuple[int, ...]], firsts: dict[tuple[int, ...], int]) -> list[tuple[int, int, int]]:
    """Returns runs (start, end, shared tokens) of sorted rows, by dynamic programming over the tokens that they save.

    A run of n rows with p common tokens saves (n − 1) · p tokens and costs one more pass for the beginning and one for
    its rows, which could otherwise be read in batches with others.
    """
    common = [0] + [_common(a, b) for a, b in pairwise(ordered)]
    saved, start_of = [0] * (len(ordered) + 1), [(0, 0)] * (len(ordered) + 1)
    for end in range(1, len(ordered) + 1):
        saved[end], start_of[end] = saved[end - 1], (end - 1, 0)
        shared = firsts[ordered[end - 1]]
        for start in range(end - 2, max(-1, end - 1 - _LARGEST_GROUP), -1):
            shared = min(shared, common[start + 1], firsts[ordered[start]])
            if shared == 0:
                break
            gain = saved[start] + (end - start - 1) * shared - 2 * PASS
            if gain > saved[end]:
                saved[end], start_of[end] = gain, (start, shared)
    runs, end = [], len(ordered)
    while end:
        start, shared = start_of[end]
        runs.append((start, end, shared))
        end = start
    return runs[::-1]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns the number of equal tokens at the start."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def _parts(
    texts: list[tuple[int, ...]], firsts: dict[tuple[int, ...], int], shared: int, limits: Limits
) -> Iterator[list[tuple[int, ...]]]:
    """Yields rows for one pass each, from texts that get shorter."""
    part: list[tuple[int, ...]] = []
    first = 0
    for tokens in texts:
        first = min(first, firsts[tokens]) if part else firsts[tokens]
        rows = len(part) + 1
        if part and (
            rows > limits.rows
            or rows * (len(part[0]) - first) > limits.logits
            or rows * shared > limits.cached
            or len(part[0]) - len(tokens) > PASS  # the padding would cost more than another pass
        ):
            yield part
            part, first = [], firsts[tokens]
        part.append(tokens)
    if part:
        yield part
