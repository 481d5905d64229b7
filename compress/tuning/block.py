"""Block tuning: trains the continuous planes of a packed decoder block to reproduce the dense block's outputs.

AQLM (arXiv 2401.06118 §3.4), made general: whatever planes of a layout hold real numbers (scales, zero points,
codebooks, outliers) and the block's own vectors (norms, biases) minimise the relative squared error of the block's
outputs, on the inputs that the packed blocks before it produce. Codes, column orders and positions of outliers stay as
they are: the file keeps its size and its layouts.

Differs from the paper in: the step is relative to the magnitude of each tensor and falls to zero, where the paper's is
a constant, absolute 1e-5; the forward sees values rounded as they are stored, so the error that decides is that of the
file; the block before tuning is a candidate too, so tuning never raises the held-out error.

Shape letters: S samples, T tokens, H hidden, B samples of one micro-batch, N out, K in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from compress.format import layouts
from compress.models import linears
from compress.models.blocks import split
from compress.tuning import sequences, trainable_planes

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.models.blocks import Block, BlockWalker
    from compress.models.linears import LinearRef
    from compress.tuning.settings import Settings


@dataclass(frozen=True, slots=True)
class TunedBlock:
    """The tuned linears and vectors of a block, and what tuning did.

    Errors are squared errors of the block's outputs over the squares of the dense block's, on held-out sequences.
    """

    packed: dict[str, PackedTensor] = field(repr=False)
    """The linears by name; the objects passed in, where no epoch was better."""
    dense: dict[str, torch.Tensor] = field(repr=False)
    """Norms and biases of the block by their names in the checkpoint, in its dtypes."""
    before: float
    after: float
    epochs: int
    """Epochs that were run; the best of them (or none) was kept."""
    diverged: bool
    """Whether tuning produced values that are not finite; the best state before that was kept."""


def fit(
    walker: BlockWalker,
    block: Block,
    packed: Mapping[str, PackedTensor],
    inputs_STH: torch.Tensor,
    targets_STH: torch.Tensor,
    settings: Settings,
) -> TunedBlock:
    """Returns the block's packed linears with tuned continuous planes; the block computes with them afterwards.

    Args:
        walker, block: the loaded block. The weights that it holds of the linears in `packed` are replaced.
        packed: the packed linears of the block by name; linears that are not in it keep the block's weights.
        inputs_STH: inputs of the block from the packed blocks before it, float32.
        targets_STH: outputs of the dense block for these inputs, float32.
        settings: see `Settings`.

    Memory, beside block, inputs and targets: for the W weights of the packed linears 4·W bytes for their values and 4·W
    for the gradient (twice that for fused experts), W bytes of decoded codes, 24 bytes for every trained number, and
    the activations of `micro_batch` sequences through one block, kept for the backward pass.

    The same inputs, settings and number of threads give the same bytes.

    Raises:
        CalibrationError: fewer than two sequences.
    """
    sequences.check_enough(len(inputs_STH), do="Raise --samples to 2 or more, or leave --tune out", layer=block.name)
    tuned = _BlockTuning(walker, block, packed, inputs_STH, targets_STH, settings).run()
    refs = {ref.name: ref for ref in walker.linears(block.index)}
    for name, tensor in tuned.packed.items():
        linears.set_weight(block, refs[name], layouts.unpack(tensor))
    with torch.no_grad():
        for name, value in tuned.dense.items():
            block.module.get_parameter(name.removeprefix(f"{block.name}.")).copy_(value)
    return tuned


class _BlockTuning:
    def __init__(
        self,
        walker: BlockWalker,
        block: Block,
        packed: Mapping[str, PackedTensor],
        inputs_STH: torch.Tensor,
        targets_STH: torch.Tensor,
        settings: Settings,
    ):
        self.walker, self.block, self.settings = walker, block, settings
        self.inputs_STH, self.targets_STH = inputs_STH, targets_STH
        self.packed, self.dense = dict(packed), _vectors(walker, block)
        self.refs: list[LinearRef] = [ref for ref in walker.linears(block.index) if ref.name in packed]
        self.trainable = trainable_planes.TrainableBlock(self.packed, self.dense, walker.device)
        self.train_S, self.held_out_S = sequences.split_held_out(len(inputs_STH), settings.held_out, settings.seed)

    def run(self) -> TunedBlock:
        settings = self.settings
        before = best = self._error(self.held_out_S)
        result = (self.packed, self.dense)
        if not math.isfinite(before):
            return TunedBlock(*result, before, before, 0, diverged=True)
        adam = trainable_planes.optimizer(list(self.trainable.parameters()), settings.rate)
        steps_per_epoch = -(-len(self.train_S) // settings.batch)
        # the rate reaches zero with the last epoch: late steps settle instead of circling around the minimum
        decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=max(1, settings.epochs * steps_per_epoch))
        epoch = epochs_without_gain = 0
        diverged = False
        while epoch < settings.epochs and epochs_without_gain < settings.patience and not diverged:
            for batch_S in split(sequences.epoch_order(epoch, self.train_S, settings.seed), settings.batch):
                self._backward(batch_S)
                adam.step()
                decay.step()
                adam.zero_grad()
            epoch, epochs_without_gain = epoch + 1, epochs_without_gain + 1
            error = self._error(self.held_out_S)
            diverged = not math.isfinite(error)
            if error < best:
                best, result, epochs_without_gain = error, self.trainable.result(), 0
        return TunedBlock(*result, before, best, epoch, diverged)

    def _backward(self, batch_S: torch.Tensor) -> None:
        """Adds the gradient of the relative error over the batch to the masters."""
        values = self.trainable.weights() | self.trainable.dense()
        # weights are decoded once per batch: micro-batches accumulate the gradient of the decoded values, and one
        # backward pass carries the sum on to the masters
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        target_square = float(self.targets_STH[batch_S].square().sum(dtype=torch.float64))
        for part_S in split(batch_S, self.settings.micro_batch):
            (self._squared_error(leaves, part_S) / target_square).backward()  # type: ignore[no-untyped-call]
        # experts that no token was routed to have no gradient
        reached = [name for name, leaf in leaves.items() if leaf.grad is not None and values[name].requires_grad]
        torch.autograd.backward([values[name] for name in reached], [leaves[name].grad for name in reached])

    @torch.no_grad()
    def _error(self, chosen_S: torch.Tensor) -> float:
        """Returns the relative squared error of the block's outputs on the chosen sequences."""
        values = self.trainable.weights() | self.trainable.dense()
        error = target_square = 0.0
        for part_S in split(chosen_S, self.settings.micro_batch):
            error += float(self._squared_error(values, part_S))
            target_square += float(self.targets_STH[part_S].square().sum(dtype=torch.float64))
        return error / target_square if target_square else error

    def _squared_error(self, values: Mapping[str, torch.Tensor], part_S: torch.Tensor) -> torch.Tensor:
        prefix = f"{self.block.name}."
        parameters = linears.parameters(self.refs, values) | {name: values[name] for name in self.dense}
        parameters = {name.removeprefix(prefix): value for name, value in parameters.items()}
        outputs_BTH = self.walker.call_with(self.block, parameters, self.inputs_STH[part_S])
        return (outputs_BTH - self.targets_STH[part_S].to(outputs_BTH)).square().sum()


def _vectors(walker: BlockWalker, block: Block) -> dict[str, torch.Tensor]:
    """Returns the block's norms and biases in the dtypes of the checkpoint: all parameters of one dimension."""
    return {
        f"{block.name}.{name}": parameter.detach().to("cpu", walker.stored_dtype(f"{block.name}.{name}"), copy=True)
        for name, parameter in block.module.named_parameters()
        if parameter.dim() == 1
    }
