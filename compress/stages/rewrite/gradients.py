"""Gradients of the loss with one block in memory: forward keeps the inputs of all blocks, backward goes block by block.

Shape letters: S samples, T tokens, H hidden, B samples of one micro-batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.errors import MethodError
from compress.models.blocks import split

if TYPE_CHECKING:
    from compress.models.blocks import Block, BlockWalker
    from compress.models.surgery.remove_units import Cut
    from compress.progress import Task


@dataclass(frozen=True, slots=True)
class Gradient:
    """A parameter and its gradients, float32 in the parameter's shape."""

    weight: torch.Tensor
    mean: torch.Tensor
    """Of the mean loss over all samples."""
    square: torch.Tensor | None
    """Mean over the samples of the squared gradient of each sample's loss: the empirical Fisher diagonal."""


def load(walker: BlockWalker, index: int, cut: Cut) -> Block:
    """Returns the block with zeros in place of removed units."""
    block = walker.load_block(index)
    with torch.no_grad():
        for name, parameter in block.module.named_parameters():
            if (full := f"{block.name}.{name}") in cut.gone:
                parameter.copy_(cut.zeroed(full, parameter))
    return block


def borders(walker: BlockWalker, cut: Cut, tokens_ST: torch.Tensor, micro_batch: int, task: Task) -> list[torch.Tensor]:
    """Returns the inputs of every block and the outputs of the last: depth + 1 tensors [S, T, H], on the CPU."""
    hidden = [walker.embed(tokens_ST)]
    for index, name in enumerate(walker.block_names):
        block = load(walker, index, cut)
        hidden.append(walker.forward(block, hidden[-1], micro_batch=micro_batch))
        walker.free_block(block)
        task.advance(1, name)
    return hidden


def backward(
    walker: BlockWalker,
    cut: Cut,
    hidden: list[torch.Tensor],
    tokens_ST: torch.Tensor,
    wanted: Mapping[int, set[str]],
    *,
    micro_batch: int,
    square: bool,
    task: Task,
) -> Iterator[tuple[int, dict[str, Gradient]]]:
    """Yields, from the last block to the first, its index and the gradients of its `wanted` parameters by full name.

    Args:
        walker: of the dense model.
        cut: removed units, which count as zeros.
        hidden: the result of `borders`; consumed.
        tokens_ST: int64 token ids.
        wanted: parameters of each block, by full name.
        micro_batch: samples in memory at once; 1 for squares.
        square: whether squared gradients per sample are wanted too.
        task: advanced by one per block.

    Raises:
        MethodError: the loss or a gradient is not finite; the block is named.
    """
    assert micro_batch == 1 or not square, "a micro-batch has the gradient of the sum of its samples"
    grad_STH = of_loss(walker, hidden.pop(), tokens_ST, micro_batch)
    samples = len(tokens_ST)
    for index in reversed(range(len(walker.block_names))):
        block = load(walker, index, cut)
        prefix = f"{block.name}."
        leaves = {
            name: parameter.detach().requires_grad_()
            for name, parameter in block.module.named_parameters()
            if f"{prefix}{name}" in wanted.get(index, set())
        }
        sums = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        squares = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()} if square else {}
        entered_STH = hidden.pop()
        for entered_BTH, grad_BTH in zip(split(entered_STH, micro_batch), split(grad_STH, micro_batch), strict=True):
            in_BTH = entered_BTH.to(walker.device, copy=True).requires_grad_()
            with torch.enable_grad():
                out_BTH = walker.call_with(block, leaves, in_BTH)
            grad_in_BTH, *grads = torch.autograd.grad(
                out_BTH, [in_BTH, *leaves.values()], grad_BTH.to(walker.device), allow_unused=True
            )
            assert grad_in_BTH is not None
            grad_BTH.copy_(grad_in_BTH)
            for name, grad in zip(leaves, grads, strict=True):
                if grad is not None:  # None for an expert that no token reached
                    sums[name] += grad / samples
                    if square:
                        squares[name].addcmul_(grad, grad, value=1 / samples)
        if not grad_STH.isfinite().all():
            raise MethodError("the gradient of the loss is not finite", layer=block.name)
        yield (
            index,
            {prefix + name: Gradient(leaf.detach(), sums[name], squares.get(name)) for name, leaf in leaves.items()},
        )
        walker.free_block(block)
        task.advance(1, block.name)


def of_loss(walker: BlockWalker, hidden_STH: torch.Tensor, tokens_ST: torch.Tensor, micro_batch: int) -> torch.Tensor:
    """Returns the gradient [S, T, H] of each sample's mean cross-entropy with respect to the last hidden states."""
    grad_STH = torch.empty_like(hidden_STH)
    for start in range(0, len(tokens_ST), micro_batch):
        part = slice(start, start + micro_batch)
        last_BTH = hidden_STH[part].to(walker.device, copy=True).requires_grad_()
        target_BT = tokens_ST[part, 1:].to(walker.device)
        logits_BTV = walker.differentiable_logits(last_BTH)[:, :-1]
        loss_BT = nn.functional.cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten(), reduction="none")
        loss = loss_BT.view(target_BT.shape).mean(1).sum()
        if not loss.isfinite():
            raise MethodError("the loss on the calibration text is not finite", do="Check the model")
        (grad_BTH,) = torch.autograd.grad(loss, [last_BTH])
        grad_STH[part] = grad_BTH.cpu()
    return grad_STH
