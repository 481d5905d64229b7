"""Block tuning: the real numbers of a packed decoder block are fitted until it gives what the dense block gave.

AQLM (arXiv 2401.06118 §3.4), made general: whatever planes of a layout hold real numbers (scales, zero points,
codebooks, outliers) and the block's own vectors (norms, biases) minimise the squared error of the block's output over
the squares of what it should be, on the inputs that the packed blocks before it give. Codes, column orders and places
of outliers stay as they are: the file has the same size and the same layout.

Differs from the paper in: the step is relative to the magnitude of each tensor and falls to zero, where the paper's is
one absolute 1e-5; the forward sees values rounded as they are stored, so the error that decides is that of the file;
the block before fitting takes part in the choice, so fitting never makes the held-out error worse.

Shape letters: S samples, T tokens, H hidden, B samples of one micro-batch, N out, K in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from compress.errors import CalibrationError
from compress.format import layouts
from compress.models import linears
from compress.models.blocks import split
from compress.tuning import trainable_planes

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.models.blocks import Block, BlockWalker
    from compress.models.linears import LinearRef
    from compress.tuning.settings import Settings


@dataclass(frozen=True, slots=True)
class Tuned:
    """What fitting made of a block. Errors are squared, over the squares of the dense block's outputs, held-out."""

    packed: dict[str, PackedTensor] = field(repr=False)
    """The linears by name; the objects that were given, where nothing better was found."""
    dense: dict[str, torch.Tensor] = field(repr=False)
    """Norms and biases of the block by their names in the checkpoint, in its dtypes."""
    before: float
    after: float
    epochs: int
    """Epochs that were run; the best of them (or none) is what was kept."""
    diverged: bool
    """Whether fitting ran into values that are not finite; the best state before that was kept."""


def fit(
    walker: BlockWalker,
    block: Block,
    packed: Mapping[str, PackedTensor],
    inputs_STH: torch.Tensor,
    targets_STH: torch.Tensor,
    settings: Settings,
) -> Tuned:
    """Returns the block's packed linears with fitted real numbers; the block computes with them afterwards.

    Args:
        walker, block: the loaded block. Whatever weights it holds of the linears in `packed` are replaced.
        packed: the packed linears of the block by name; linears that are not in it stay as the block has them.
        inputs_STH: what the block receives from the packed blocks before it, float32.
        targets_STH: what the dense block makes of these inputs, float32.
        settings: see there.

    Memory, beside block, inputs and targets: for the W weights of the packed linears 4·W bytes for their values and 4·W
    for the gradient (twice that for fused experts), W bytes of decoded codes, 24 bytes for every real number that is
    fitted, and the activations of `micro_batch` sequences through one block, kept for the backward pass.

    The same inputs, settings and number of threads give the same bytes.

    Raises:
        CalibrationError: fewer than two sequences: one at least must be left to judge.
    """
    if len(inputs_STH) < 2:
        raise CalibrationError(
            "one calibration sequence, and fitting keeps at least one back to judge by",
            do="Raise --samples to 2 or more, or leave --tune out",
            layer=block.name,
        )
    fitting = _Fitting(walker, block, packed, inputs_STH, targets_STH, settings)
    tuned = fitting.run()
    refs = {ref.name: ref for ref in walker.linears(block.index)}
    for name, tensor in tuned.packed.items():
        linears.set_weight(block, refs[name], layouts.unpack(tensor))
    with torch.no_grad():
        for name, value in tuned.dense.items():
            block.module.get_parameter(name.removeprefix(f"{block.name}.")).copy_(value)
    return tuned


class _Fitting:
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
        self.fitted = trainable_planes.Fitted(self.packed, self.dense, walker.device)
        self.train_S, self.held_S = trainable_planes.held_out(len(inputs_STH), settings.held_out, settings.seed)

    def run(self) -> Tuned:
        settings = self.settings
        before = best = self._error(self.held_S)
        result = (self.packed, self.dense)
        if not math.isfinite(before):
            return Tuned(*result, before, before, 0, diverged=True)
        moves = list(self.fitted.parameters())
        adam = trainable_planes.optimizer(moves, settings.rate)
        steps = -(-len(self.train_S) // settings.batch)
        fall = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=max(1, settings.epochs * steps))
        epoch = waited = 0
        diverged = False
        while epoch < settings.epochs and waited < settings.patience and not diverged:
            for batch_S in split(trainable_planes.order_of(epoch, self.train_S, settings.seed), settings.batch):
                self._backward(batch_S)
                adam.step()
                fall.step()
                adam.zero_grad()
            epoch, waited = epoch + 1, waited + 1
            error = self._error(self.held_S)
            diverged = not math.isfinite(error)
            if error < best:
                best, result, waited = error, self.fitted.result(), 0
        return Tuned(*result, before, best, epoch, diverged)

    def _backward(self, batch_S: torch.Tensor) -> None:
        """Adds the gradient of the relative error over the batch to the masters."""
        values = self.fitted.weights() | self.fitted.dense()
        # the weights are assembled once per batch: micro-batches gather the gradient of the values
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        whole = float(self.targets_STH[batch_S].square().sum(dtype=torch.float64))
        for part_S in split(batch_S, self.settings.micro_batch):
            (self._lost(leaves, part_S) / whole).backward()  # type: ignore[no-untyped-call]
        reached = [name for name, leaf in leaves.items() if leaf.grad is not None and values[name].requires_grad]
        torch.autograd.backward([values[name] for name in reached], [leaves[name].grad for name in reached])

    @torch.no_grad()
    def _error(self, chosen_S: torch.Tensor) -> float:
        """Returns the relative squared error of the block's outputs on the chosen sequences."""
        values = self.fitted.weights() | self.fitted.dense()
        lost = whole = 0.0
        for part_S in split(chosen_S, self.settings.micro_batch):
            lost += float(self._lost(values, part_S))
            whole += float(self.targets_STH[part_S].square().sum(dtype=torch.float64))
        return lost / whole if whole else lost

    def _lost(self, values: Mapping[str, torch.Tensor], part_S: torch.Tensor) -> torch.Tensor:
        prefix = f"{self.block.name}."
        given = linears.parameters(self.refs, values) | {name: values[name] for name in self.dense}
        given = {name.removeprefix(prefix): value for name, value in given.items()}
        found_BTH = self.walker.call_with(self.block, given, self.inputs_STH[part_S])
        return (found_BTH - self.targets_STH[part_S].to(found_BTH)).square().sum()


def _vectors(walker: BlockWalker, block: Block) -> dict[str, torch.Tensor]:
    """The block's norms and biases, in the dtypes of the checkpoint: all parameters of one dimension."""
    return {
        f"{block.name}.{name}": parameter.detach().to(walker.stored_dtype(f"{block.name}.{name}"), copy=True)
        for name, parameter in block.module.named_parameters()
        if parameter.dim() == 1
    }
