"""Measures how much each expert of a block contributes to the block's output, over all calibration tokens.

Shape letters: S samples, T tokens, H hidden, R tokens routed to one expert.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from compress.calibration.taps import tapped
from compress.models.blocks import Block, BlockWalker, split
from compress.models.linears import LinearRef


def contributions(
    walker: BlockWalker, block: Block, refs: Iterable[LinearRef], hidden_STH: torch.Tensor, *, micro_batch: int
) -> dict[tuple[str, int], float]:
    """Returns Σ ‖r·y‖² over its tokens for every expert among `refs`, r the routing weight and y its output.

    The figure grows with how often an expert is chosen, with its routing weight and with the size of its output. An
    expert that no token reaches gets the mean over all tokens of the others, as if one token had reached it: it ranks
    low, but not at zero. r is left out where the experts' module does not multiply by it (see `taps.OnOutput`).

    Args:
        walker: walks the model.
        block: the block, loaded.
        refs: linears of the block; those of experts are measured.
        hidden_STH: the block's inputs.
        micro_batch: samples that go through the block at once.

    Returns:
        (path of the experts' module, number of the expert) -> energy.
    """
    experts = [ref for ref in refs if ref.kind == "expert"]
    energy = {(ref.experts[0], ref.experts[2]): 0.0 for ref in experts}
    tokens = dict.fromkeys(energy, 0)

    def on_output(path: str, number: int, y_RH: torch.Tensor) -> None:
        if (path, number) in energy:
            energy[path, number] += float(y_RH.square().sum(dtype=torch.float64))
            tokens[path, number] += y_RH.shape[0]

    with tapped(block, experts, lambda *_: None, on_output):
        for hidden_BTH in split(hidden_STH, micro_batch):
            walker.call(block, hidden_BTH)
    mean = sum(energy.values()) / max(1, sum(tokens.values()))
    return {key: energy[key] if tokens[key] else mean for key in energy}
