"""Chooses the masks that sparse training starts from, with a one-shot pruning method.

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
"""Largest number of sequences whose activations the statistics are computed from, as in the papers of the methods."""


def one_shot(
    model: Any, refs: Sequence[LinearRef], tokens_ST: torch.Tensor, config: Config
) -> Iterator[tuple[LinearRef, torch.Tensor, torch.Tensor]]:
    """Yields every linear with its starting weight, float32 [N, K], and its mask, bool [N, K].

    Activations are those of the dense model throughout. The statistics of one block are in memory at a time: for a
    method that needs them the model runs once per block.
    """
    method = registry.load_pack(config.start)
    options = registry.configure(config.start, {"n": config.n, "m": config.m})
    for block_name in find_blocks(model):
        in_block = [ref for ref in refs if ref.name.startswith(f"{block_name}.")]
        stats = _stats(model, in_block, tokens_ST[:SEQUENCES], config.micro_batch) if method.NEEDS else {}
        for ref in in_block:
            w_NK = linears.weight(model, ref)
            packed = method.solve(w_NK, stats.get(ref.name), options)
            mask_NK = sparse_nm.mask(packed)
            if config.start == "sparsegpt":
                # it corrects the kept weights for the pruned ones; the other methods only round what they keep, and
                # that rounding would be lost precision
                w_NK = torch.where(mask_NK, sparse_nm.unpack(packed), w_NK)
            yield ref, w_NK, mask_NK


@torch.no_grad()
def _stats(model: Any, refs: Sequence[LinearRef], tokens_ST: torch.Tensor, micro_batch: int) -> dict[str, LayerStats]:
    device = next(model.parameters()).device
    stats = {ref.name: LayerStats.empty(ref.shape[1], device) for ref in refs}
    unseen: set[str] = set()

    def update(ref: LinearRef, x: torch.Tensor) -> None:
        stats[ref.name].update(x)
        unseen.discard(ref.name)
        if not unseen:
            raise Enough  # the blocks after this one need not run

    whole = Block(0, "", model)
    with tapped(whole, refs, update):
        for tokens_BT in split(tokens_ST, micro_batch):
            unseen |= {ref.name for ref in refs}
            with suppress(Enough):
                model(input_ids=tokens_BT.to(device), use_cache=False)
    return stats
