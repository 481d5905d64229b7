"""Divides the sequences into training and held-out ones, and orders the training sequences of each epoch.

Everything follows from the seed and the number of the epoch, so a resumed run needs to store no generator state.

Shape letters: S sequences.
"""

from __future__ import annotations

import torch

from compress.errors import CalibrationError


def check_enough(sequences: int, *, do: str = "Raise --samples to 2 or more", layer: str | None = None) -> None:
    """Raises CalibrationError for fewer than two sequences: one is held out, and one at least is trained on."""
    if sequences < 2:
        given = f"training needs at least 2 sequences (1 is held out); got {sequences}"
        raise CalibrationError(given, do=do, layer=layer)


def split_held_out(sequences: int, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the indices of the training sequences and of the held-out ones, int64 [S], both ascending.

    `share` of the sequences is held out, but at least one, and at least one is left to train on.
    """
    count = min(max(1, round(share * sequences)), sequences - 1)
    order = torch.randperm(sequences, generator=torch.Generator().manual_seed(seed))
    return order[count:].sort().values, order[:count].sort().values


def epoch_order(epoch: int, sequences_S: torch.Tensor, seed: int) -> torch.Tensor:
    """Returns `sequences_S` in the order of one epoch, which seed and epoch alone decide."""
    # epochs stay below 2^20, so no two pairs of seed and epoch share a generator; 0 is the held-out draw of seed 0
    generator = torch.Generator().manual_seed((seed << 20) + epoch + 1)
    return sequences_S[torch.randperm(sequences_S.numel(), generator=generator)]
