"""Collects the statistics of a block's linears: groups those that share an input and sums over the inputs.

Shape letters: S samples, T tokens, H hidden, K in features.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

import torch

from compress.calibration.stats import LayerStats
from compress.calibration.taps import Enough, tapped
from compress.errors import CalibrationError
from compress.models.blocks import Block, BlockWalker, split
from compress.models.linears import LinearRef


def input_groups(walker: BlockWalker, block: Block, hidden_STH: torch.Tensor) -> list[list[LinearRef]]:
    """Returns the block's linears in the order in which they are called, grouped by the input they share.

    q, k and v make one group, gate and up another. The matrices of all experts that lie in one parameter make one group
    as soon as one of them is called: the others wait for tokens that are routed to them. Linears that the forward never
    calls come last, alone. One sample decides.
    """
    refs = walker.linears(block.index)
    groups: list[list[LinearRef]] = []
    # what each group shares: a tensor (kept, so that no other takes its place in memory) or the experts' parameter
    inputs: list[torch.Tensor | str] = []

    def on_input(ref: LinearRef, x: torch.Tensor) -> None:
        if any(ref in group for group in groups):
            return
        shared: torch.Tensor | str = ref.parameter if ref.kind == "expert" else x
        place = next((place for place, known in enumerate(inputs) if _same_input(known, shared)), len(groups))
        if place == len(groups):
            groups.append([])
            inputs.append(shared)
        members = [other for other in refs if other.kind == "expert" and other.parameter == shared]
        groups[place] += members or [ref]

    with tapped(block, refs, on_input):
        walker.call(block, hidden_STH[:1])
    called = {ref.name for group in groups for ref in group}
    uncalled: dict[str, list[LinearRef]] = {}
    for ref in refs:
        if ref.name not in called:
            uncalled.setdefault(ref.parameter, []).append(ref)
    return groups + list(uncalled.values())


def collect(
    walker: BlockWalker, block: Block, refs: Iterable[LinearRef], hidden_STH: torch.Tensor, *, micro_batch: int
) -> dict[str, LayerStats]:
    """Returns the statistics of `refs` by name over all samples, on the walker's device.

    Linears that receive the same tensor share one LayerStats object; experts have one each, over the tokens routed to
    them. A linear that is never called, or an expert that no token reaches, has `num_tokens` 0. The block's forward is
    left as soon as the last of `refs` has been called.

    Raises:
        CalibrationError: a linear receives NaN or infinite values.
    """
    sums = Sums(refs, walker.device)
    with tapped(block, sums.refs, sums.add):
        for hidden_BTH in split(hidden_STH, micro_batch):
            sums.start_micro_batch()
            with suppress(Enough):
                walker.call(block, hidden_BTH)
    return sums.result()


class Sums:
    """Adds up the inputs of some linears over micro-batches."""

    def __init__(self, refs: Iterable[LinearRef], device: torch.device) -> None:
        self.refs, self._device = list(refs), device
        self._stats: dict[str, LayerStats] = {}
        # inputs of this micro-batch with their statistics
        self._seen: list[tuple[torch.Tensor, LayerStats]] = []
        self._waiting: set[str] = set()

    def start_micro_batch(self) -> None:
        """Call it before the inputs of each micro-batch."""
        self._waiting = {ref.name for ref in self.refs}
        self._seen.clear()

    def add(self, ref: LinearRef, x: torch.Tensor) -> None:
        """Adds an input x [..., K] of a linear; raises `Enough` with the last linear that was waited for."""
        known = next((known for tensor, known in self._seen if _same_input(tensor, x)), None)
        if known is None:
            known = self._stats.get(ref.name) or LayerStats.empty(ref.shape[1], self._device)
            known.update(x)
            if ref.kind != "expert":
                self._seen.append((x, known))
        self._stats[ref.name] = known
        self._waiting.discard(ref.name)
        if not self._waiting:
            raise Enough

    def result(self) -> dict[str, LayerStats]:
        """Returns the statistics by name; CalibrationError if an input was NaN or infinite."""
        self._seen.clear()
        for ref in self.refs:
            sums = self._stats.setdefault(ref.name, LayerStats.empty(ref.shape[1], self._device))
            if not bool(sums.gram_KK.diagonal().isfinite().all()):
                raise CalibrationError(
                    "its calibration inputs contain NaN or infinite values",
                    do="Check the model's weights",
                    layer=ref.name,
                )
        return {ref.name: self._stats[ref.name] for ref in self.refs}


def _same_input(a: torch.Tensor | str, b: torch.Tensor | str) -> bool:
    """Whether two inputs are the same memory in the same state, seen through the same shape of rows."""
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and a == b
    return (a.data_ptr(), a.shape, a.stride(), a._version) == (b.data_ptr(), b.shape, b.stride(), b._version)
