"""The plan covers every row once, reads common beginnings once, and pads little."""

from __future__ import annotations

import random

import pytest

from compress.evaluation.reading.plan import Group, Limits, plan
from compress.evaluation.reading.rows import Row

LIMITS = Limits(rows=8, logits=10_000, cached=100_000)


def cost(groups: list[Group]) -> int:
    return sum(group.cost for group in groups)


def examples(rng: random.Random, subjects: int = 3, questions: int = 20) -> list[Row]:
    """Long examples of a subject, then a question, of which the last token is scored; and short texts."""
    rows = []
    for _ in range(subjects):
        header = tuple(rng.choices(range(50), k=300))
        for _ in range(questions):
            question = tuple(rng.choices(range(50), k=rng.randint(20, 40)))
            rows += [Row(header + question, 300 + len(question) - 1)] * 4
    return rows + [Row(tuple(rng.choices(range(50), k=rng.randint(1, 90)))) for _ in range(40)]


@pytest.mark.parametrize("limits", [LIMITS, Limits(1, 1, 1), Limits(8, 200, 700)], ids=str)
def test_every_row_is_read_once_whole_and_with_the_positions_that_it_needs(limits: Limits) -> None:
    rows = examples(random.Random(0))
    random.Random(1).shuffle(rows)
    groups = plan(rows, limits)
    seen = []
    for group in groups:
        for batch in group.batches:
            assert len(batch.rows) <= limits.rows
            assert len(batch.rows) == 1 or len(batch.rows) * (batch.length - batch.first) <= limits.logits
            assert len(batch.rows) == 1 or len(batch.rows) * group.shared <= limits.cached
            for row, members in zip(batch.rows, batch.members, strict=True):
                assert row.tokens[: group.shared] == batch.rows[0].tokens[: group.shared]
                assert group.shared <= row.first
                for index in members:
                    assert rows[index].tokens == row.tokens and batch.first <= row.first <= rows[index].first
                    seen.append(index)
    assert sorted(seen) == list(range(len(rows)))


def test_beginnings_and_equal_rows_are_read_once() -> None:
    rows = examples(random.Random(0))
    shared, alone = cost(plan(rows, LIMITS)), cost(plan(rows, LIMITS, share=False))
    assert alone > 3 * 20 * 320, "four choices of a question are one row in any case"
    assert shared < 3 * 300 + 3 * 20 * 45 + 40 * 100
    assert {group.shared for group in plan(rows, LIMITS)} == {0, 300}


def test_a_short_common_beginning_is_not_worth_a_pass() -> None:
    rows = [Row((1, 2, 3, last), 3) for last in range(4)]
    assert [group.shared for group in plan(rows, LIMITS)] == [0]


def test_rows_of_one_length_keep_their_order_and_padding_is_small() -> None:
    rng = random.Random(2)
    windows = [Row(tuple(rng.choices(range(9), k=16))) for _ in range(20)]
    order = [index for group in plan(windows, LIMITS) for batch in group.batches for m in batch.members for index in m]
    assert order == list(range(20))
    lengths = [Row(tuple(range(size))) for size in range(1, 400, 7)]
    assert cost(plan(lengths, LIMITS)) < 1.15 * sum(len(row.tokens) for row in lengths)


def test_what_is_known_is_not_read_and_changes_no_other_batch() -> None:
    rows = examples(random.Random(3))
    groups = plan(rows, LIMITS)
    first = groups[1].batches[0]
    known = {index for members in first.members for index in members}
    left = [group.without(known) for group in groups]
    assert left[1].batches == groups[1].batches[1:] and left[0] == groups[0] and left[2:] == groups[2:]
    known.pop()
    assert groups[1].without(known) == groups[1], "a batch of which one row is not known is read again"
    assert Group(5, ()).cost == 0
