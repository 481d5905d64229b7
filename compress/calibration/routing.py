"""How much each expert of a block matters: what it adds to the sum of the experts, over all tokens.

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

    How often an expert is chosen, with which weight and how much it then says are all in the one figure. An expert
    that no token reaches counts as if it had been reached once, by a token of the mean over the others, so that it is
    the last one but not worth nothing. Keys are the path of the experts and the number of the expert.
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
