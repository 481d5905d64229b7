"""Runs each micro-batch through a block about once while the linears of the block are packed one group after the other.

A linear is calibrated on its inputs in a block in which the linears before it are packed ("true-sequential"). Running
the block again for each group of linears computes everything before the group again. Here every micro-batch has a
forward of its own, which waits right before the first linear that is not packed yet: all forwards give their inputs to
the sums, the linear is packed, and all go on from there.

A forward that waits holds the activations of its micro-batch. Where memory does not suffice for all of them, the others
are computed again for each group, and so is what a forward cannot tell where it waits: the inputs of experts whose
products alternate with those of another projection, and of linears that it passes in another order. The sums are the
same to the last bit either way, since every micro-batch takes the same steps and is added in the same order.

Shape letters: S samples, T tokens, H hidden, B samples of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import torch

from compress.calibration.collect import Sums
from compress.calibration.paused import PausedForward
from compress.calibration.stats import LayerStats
from compress.calibration.taps import Enough, Read, tapped_together
from compress.models.blocks import Block, BlockWalker, split
from compress.models.linears import LinearRef


class Forwards:
    """The forwards of one block over all samples. Make them with `forwards`."""

    def __init__(
        self, walker: BlockWalker, block: Block, refs: Iterable[LinearRef], hidden_STH: torch.Tensor, micro_batch: int
    ) -> None:
        self._walker, self._block, self._hidden_STH, self._micro_batch = walker, block, hidden_STH, micro_batch
        self._kept: list[PausedForward] = []
        self._unpacked = {ref.name for ref in refs}
        self._at_hand: set[str] = set()
        self._sums: Sums | None = None

    def keep(self, count: int, stack: ExitStack) -> None:
        """Has the first `count` micro-batches wait at linears instead of being computed again; `stack` ends them."""
        for hidden_BTH in split(self._hidden_STH, self._micro_batch)[:count]:
            forward = PausedForward(partial(self._walker.call, self._block, hidden_BTH))
            self._kept.append(forward)
            stack.callback(forward.abandon)

    def collect(self, refs: Iterable[LinearRef]) -> dict[str, LayerStats]:
        """Returns the statistics of `refs` by name; see `calibration.collect.collect`.

        The linears of all earlier calls count as packed: their present weights are used from now on.

        Args:
            refs: linears that share an input, or experts of one parameter.

        Raises:
            CalibrationError: a linear receives NaN or infinite values.
        """
        refs = list(refs)
        self._unpacked -= self._at_hand
        self._at_hand = {ref.name for ref in refs}
        sums = Sums(refs, self._walker.device)
        for number, hidden_BTH in enumerate(split(self._hidden_STH, self._micro_batch)):
            sums.start_micro_batch()
            inputs = self._known(number, refs)
            with suppress(Enough):
                if inputs is None:
                    self._compute_again(hidden_BTH, sums)
                else:
                    for ref, read in inputs.items():
                        sums.add(ref, read())
        return sums.result()

    def finish(self) -> torch.Tensor:
        """Returns the outputs of the block [S, T, H] on the CPU, with all its linears packed."""
        self._unpacked.clear()
        out_STH = self._walker.host_like(self._hidden_STH)
        parts = zip(split(self._hidden_STH, self._micro_batch), split(out_STH, self._micro_batch), strict=True)
        for number, (hidden_BTH, place_BTH) in enumerate(parts):
            if number < len(self._kept):
                self._go_on(self._kept[number])
                output_BTH = self._kept[number].output
                assert output_BTH is not None
                self._kept[number].output = None  # frees it
            else:
                output_BTH = self._walker.call(self._block, hidden_BTH)
            place_BTH.copy_(output_BTH)
        return out_STH

    def _known(self, number: int, refs: list[LinearRef]) -> Mapping[LinearRef, Read] | None:
        """Returns the inputs of `refs` from a kept forward that waits or has ended; None: it does not know them."""
        if number >= len(self._kept):
            return None
        forward = self._kept[number]
        self._go_on(forward)
        if forward.output is not None:
            return {}  # it called none of them
        if not forward.complete or {ref.parameter for ref in forward.inputs}.isdisjoint(ref.parameter for ref in refs):
            return None
        if refs[0].kind == "expert":
            return {ref: forward.inputs[ref] for ref in refs if ref in forward.inputs}
        read = next(read for ref, read in forward.inputs.items() if ref in refs)
        return dict.fromkeys(refs, read)

    def _go_on(self, forward: PausedForward) -> None:
        """Runs the forward to the first linear that is not packed."""
        while forward.output is None and self._unpacked.isdisjoint(ref.name for ref in forward.inputs):
            forward.proceed()

    def _compute_again(self, hidden_BTH: torch.Tensor, sums: Sums) -> None:
        self._sums = sums
        try:
            self._walker.call(self._block, hidden_BTH)
        finally:
            self._sums = None

    def on_inputs(self, inputs: Mapping[LinearRef, Read], complete: bool) -> None:
        """Pauses the forward that calls it, or adds the inputs to the sums if it is one that is computed again."""
        forward = next((forward for forward in self._kept if forward.is_this_thread), None)
        if forward is not None:
            forward.check()
            if not self._unpacked.isdisjoint(ref.name for ref in inputs):
                forward.pause(inputs, complete)
        elif self._sums is not None:
            for ref, read in inputs.items():
                if ref in self._sums.refs:
                    self._sums.add(ref, read())


@contextmanager
def forwards(
    walker: BlockWalker,
    block: Block,
    refs: Iterable[LinearRef],
    hidden_STH: torch.Tensor,
    *,
    micro_batch: int,
    kept: int,
) -> Iterator[Forwards]:
    """Yields the forwards of a block; they are ended when the context is left, in any way.

    Args:
        walker: walks the model.
        block: the block, loaded.
        refs: all linears of the block that will be packed.
        hidden_STH: the block's inputs.
        micro_batch: samples that go through the block at once.
        kept: micro-batches whose activations may be in memory together.
    """
    refs = list(refs)
    running = Forwards(walker, block, refs, hidden_STH, micro_batch)
    with tapped_together(block, refs, running.on_inputs), ExitStack() as stack:
        running.keep(kept, stack)
        yield running
