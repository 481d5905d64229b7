"""Scores texts after prompts: their likelihood, and how many of their tokens are the likeliest.

Shape letters: P positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch

from compress.evaluation.reading.rows import Reader, Row, Tick
from compress.evaluation.suites.base import Followed

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of the text after it, neither of them empty."""


def rows_of(pairs: Sequence[Pair]) -> list[Row]:
    """Returns what must be read to score the pairs: all tokens but the last."""
    return [Row((*prompt, *text[:-1]), len(prompt) - 1) for prompt, text in pairs]


def follow(
    reader: Reader, pairs: Sequence[Pair], *, known: Collection[int] = (), tick: Tick = lambda tokens: None
) -> Iterator[list[tuple[int, Followed]]]:
    """Yields batches of (index of the pair, scores of its text, in fp32); batches that are known are left out.

    Raises EvaluationError for scores that are not finite.
    """
    for batch in reader.read(rows_of(pairs), known=known, tick=tick):
        yield [(index, _scores(reader, pairs[index], logits_PV)) for index, logits_PV in batch]


def _scores(reader: Reader, pair: Pair, logits_PV: torch.Tensor) -> Followed:
    log_prob_PV = torch.log_softmax(logits_PV, dim=-1)
    if not torch.isfinite(log_prob_PV.amax(-1)).all():
        raise reader.not_finite([*pair[0], *pair[1]], "While reading a text,")
    text_P = torch.tensor(pair[1], device=log_prob_PV.device)
    picked_P = log_prob_PV.gather(1, text_P[:, None])[:, 0]
    nll, agreed = -float(picked_P.double().sum()), int((log_prob_PV.argmax(-1) == text_P).sum())
    if not abs(nll) < float("inf"):
        raise reader.not_finite([*pair[0], *pair[1]], "While reading a text,")
    return Followed(nll, len(pair[1]), agreed)
