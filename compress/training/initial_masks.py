"""What sparse training starts from: the masks, and maybe the weights, of a method that prunes at once.

Shape letters: S sequences, T tokens, B sequences of one call, N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from compress.calibration.stats import LayerStats
from compress.calibration.taps import Enough, tapped
from compress.format.layouts import sparse_nm
from compress.methods import registry
from compress.models import linears
from compress.models.blocks import Block, split
from compress.models.linears import LinearRef
from compress.models.skeleton import find_blocks

if TYPE_CHECKING:
    from compress.methods.ast import Config

SEQUENCES = 128
"""Sequences that the statistics of the inputs are taken over, at most."""


def one_shot(
    model: Any, refs: Sequence[LinearRef], tokens_ST: torch.Tensor, config: Config
) -> Iterator[tuple[LinearRef, torch.Tensor, torch.Tensor]]:
    """Yields every linear with the weight to start from (float32 [N, K]) and its mask (bool [N, K]).

    One block's statistics are in memory at once; for a method that needs some, the model runs once per block. All
    inputs are those of the dense model.
    """
    method = registry.load(config.start)
    options = registry.configure(config.start, {"n": config.n, "m": config.m})
    for name in find_blocks(model):
        inside = [ref for ref in refs if ref.name.startswith(f"{name}.")]
        stats = _stats(model, inside, tokens_ST[:SEQUENCES], config.micro_batch) if method.NEEDS else {}
        for ref in inside:
            w_NK = linears.weight(model, ref)
            packed = method.solve(w_NK, stats.get(ref.name), options)
            mask_NK = sparse_nm.mask(packed)
            if config.start == "sparsegpt":
                # the other two leave what they keep as it is, but for rounding, which would only be lost
                w_NK = torch.where(mask_NK, sparse_nm.unpack(packed), w_NK)
            yield ref, w_NK, mask_NK


@torch.no_grad()
def _stats(model: Any, refs: Sequence[LinearRef], tokens_ST: torch.Tensor, micro_batch: int) -> dict[str, LayerStats]:
    device = next(model.parameters()).device
    stats = {ref.name: LayerStats.empty(ref.shape[1], device) for ref in refs}
    waiting: set[str] = set()

    def heard(ref: LinearRef, x: torch.Tensor) -> None:
        stats[ref.name].update(x)
        waiting.discard(ref.name)
        if not waiting:
            raise Enough

    whole = Block(0, "", model)
    with tapped(whole, refs, heard):
        for tokens_BT in split(tokens_ST, micro_batch):
            waiting |= {ref.name for ref in refs}
            with suppress(Enough):
                model(input_ids=tokens_BT.to(device), use_cache=False)
    return stats
