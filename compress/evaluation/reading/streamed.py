"""Reads rows with a model that stays on disk, one decoder block in memory at a time.

The weights are those that the folder stores; of a packed folder they are decoded with `layouts.unpack`. A packed model
in memory multiplies with kernels that are checked against the same decoded weights, so that both ways give the same
logits but for the order of summation in float32.

Shape letters: B rows of a batch, T tokens, H hidden, P positions whose logits are wanted, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate

import torch

from compress.evaluation.finite import NotFiniteError, bad_outputs, error_at
from compress.evaluation.reading.plan import Batch, Limits, plan
from compress.evaluation.reading.rows import Row, Tick
from compress.models.blocks import BlockWalker

WAITING_BYTES = 256 << 20
"""Hidden states that wait between two blocks. All batches whose states fit are read in one walk through the model."""
_LOGIT_BYTES = 1 << 28
_TOKENS_AT_ONCE = 1024
"""Tokens that pass through a block at once: more take more memory, fewer make the products less efficient."""


class StreamedReader:
    """`Reader` of a model on disk, dense or packed."""

    def __init__(self, walker: BlockWalker, batch_size: int, waiting_bytes: int = WAITING_BYTES) -> None:
        self.walker, self._waiting_bytes = walker, waiting_bytes
        self._limits = Limits(batch_size, max(1, _LOGIT_BYTES // (4 * walker.vocab_size)), 1)

    def read(
        self, rows: Sequence[Row], *, known: Collection[int] = (), tick: Tick = lambda tokens: None
    ) -> Iterator[list[tuple[int, torch.Tensor]]]:
        """See `Reader.read`."""
        for portion in self._portions(self._plan(rows, known)):
            states = self._walk(portion, tick)
            while portion:
                batch, state_BTH = portion.pop(0), states.pop(0)
                yield self._logits(rows, batch, state_BTH)

    def cost(self, rows: Sequence[Row], *, known: Collection[int] = ()) -> int:
        """See `Reader.cost`."""
        return sum(len(batch.rows) * batch.length for batch in self._plan(rows, known))

    def not_finite(self, tokens: Sequence[int], where: str) -> NotFiniteError:
        """See `Reader.not_finite`."""
        walker, hidden_BTH = self.walker, self.walker.embed(torch.tensor([list(tokens)]))
        for index, name in enumerate(walker.block_names):
            block = walker.load_block(index)
            with bad_outputs(block.module, name) as bad:
                walker.forward(block, hidden_BTH, micro_batch=1, out=hidden_BTH)
            walker.free_block(block)
            if bad:
                return error_at(bad[0], where)
        return error_at(None, where)

    def _plan(self, rows: Sequence[Row], known: Collection[int]) -> list[Batch]:
        groups = plan(rows, self._limits, share=False)
        return [batch for group in groups for batch in group.without(known).batches]

    def _portions(self, batches: Iterable[Batch]) -> Iterator[list[Batch]]:
        """Yields batches whose hidden states wait together; at least one."""
        portion: list[Batch] = []
        size = 0
        for batch in batches:
            needed = 4 * len(batch.rows) * batch.length * self.walker.state_size
            if portion and size + needed > self._waiting_bytes:
                yield portion
                portion, size = [], 0
            portion.append(batch)
            size += needed
        if portion:
            yield portion

    def _walk(self, portion: Sequence[Batch], tick: Tick) -> list[torch.Tensor]:
        """Returns the outputs of the last block [B, T, H] for every batch, padded on the right."""
        walker = self.walker
        states = [walker.embed(_padded(batch)) for batch in portion]
        done, owed = 0, sum(len(batch.rows) * batch.length for batch in portion)
        for index in range(len(walker.block_names)):
            block = walker.load_block(index)
            for state_BTH in states:
                micro_batch = max(1, _TOKENS_AT_ONCE // state_BTH.shape[1])
                walker.forward(block, state_BTH, micro_batch=micro_batch, out=state_BTH)
            walker.free_block(block)
            reached = owed * (index + 1) // len(walker.block_names)
            tick(reached - done)
            done = reached
        walker.forget_arguments()
        return states

    def _logits(self, rows: Sequence[Row], batch: Batch, state_BTH: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """Returns (index, logits [P, V]) of all rows of the batch; only the positions that are wanted meet the head."""
        wanted = [
            state_BTH[place, min(rows[index].first for index in equal) : len(row.tokens)]
            for place, (row, equal) in enumerate(zip(batch.rows, batch.members, strict=True))
        ]
        logits_PV = self.walker.logits(torch.cat(wanted)[None])[0]
        ends = accumulate(len(part) for part in wanted)
        return [
            (index, logits_PV[end - (len(rows[index].tokens) - rows[index].first) : end])
            for end, equal in zip(ends, batch.members, strict=True)
            for index in equal
        ]


def _padded(batch: Batch) -> torch.Tensor:
    """Returns token ids, int64 [B, T], padded on the right, where nothing that is wanted sees the padding."""
    tokens_BT = torch.zeros(len(batch.rows), batch.length, dtype=torch.long)
    for place, row in enumerate(batch.rows):
        tokens_BT[place, : len(row.tokens)] = torch.tensor(row.tokens)
    return tokens_BT
