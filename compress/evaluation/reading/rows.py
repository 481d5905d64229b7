"""Rows of token ids, and `Reader`, the interface between what is measured and the model that is read.

What is measured (perplexity, divergence, log-likelihoods) needs no more than logits of rows. They may come from a model
in memory (`in_memory`), or from any other source, such as a model that is read block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from compress.evaluation.finite import NotFiniteError


@dataclass(frozen=True)
class Row:
    """Tokens to read from the start, and the first position whose logits are wanted."""

    tokens: tuple[int, ...]
    first: int = 0
    """0 to len(tokens) − 1; the logits at a position are those of the next token."""


Tick = Callable[[int], object]
"""Receives numbers of tokens as they are read."""


class Reader(Protocol):
    """Source of logits."""

    def read(
        self, rows: Sequence[Row], *, known: Collection[int] = (), tick: Tick = lambda tokens: None
    ) -> Iterator[list[tuple[int, torch.Tensor]]]:
        """Yields batches of (index of the row, logits fp32 [len(tokens) − first, V]); every row comes once.

        The batches depend on `rows` alone, so that a second call gives the same numbers. A batch whose rows are all in
        `known` is left out. Rows of one length come in their order. The tensors may be views that the next batch
        overwrites.
        """

    def cost(self, rows: Sequence[Row], *, known: Collection[int] = ()) -> int:
        """Returns the number of tokens that `read` will read, as it tells them to `tick`."""

    def not_finite(self, tokens: Sequence[int], where: str) -> NotFiniteError:
        """Returns the error for scores on `tokens` that are not finite, with the first layer that gave such a value."""
