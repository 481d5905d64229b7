"""How packed weights are fitted: the numbers that both ways of fitting are steered by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Fitting of one decoder block (`tuning.block`)."""

    epochs: int = 5
    """Passes over the training sequences at most, 0 or more; the rate falls linearly to zero over them."""
    rate: float = 0.01
    """First step of Adam in units of the root mean square of the plane that is fitted, above 0."""
    batch: int = 8
    """Sequences per step of Adam, 1 or more."""
    micro_batch: int = 8
    """Sequences in memory at once, 1 or more: bounds the activations, changes nothing but rounding."""
    patience: int = 2
    """Epochs without a better held-out error after which fitting stops, 1 or more."""
    held_out: float = 0.125
    """Share of the sequences that only judges, above 0 and below 1; at least one sequence, drawn by the seed."""
    seed: int = 0
    """Seed of the draw of the held-out sequences and of the order of the others."""
