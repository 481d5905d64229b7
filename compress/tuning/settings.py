"""Settings of block tuning and of end-to-end tuning, with the values they are checked against."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compress.errors import RecipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of block tuning (`tuning.block`)."""

    epochs: int = 4
    """Passes over the training sequences at most, 0 or more; the rate falls linearly to zero over them."""
    rate: float = 0.01
    """First learning rate of Adam, in units of the root mean square of the trained plane, above 0."""
    batch: int = 4
    """Sequences per step of Adam, 1 or more."""
    micro_batch: int = 4
    """Sequences in memory at once, 1 or more: bounds the activations, changes nothing but rounding."""
    patience: int = 2
    """Epochs without a better held-out error after which tuning stops, 1 or more."""
    held_out: float = 0.125
    """Share of the sequences that is held out, above 0 and below 1; at least one sequence, drawn by the seed."""
    seed: int = 0
    """Seed of the draw of the held-out sequences and of the order of the others, 0 or more."""

    def __post_init__(self) -> None:
        _check(self, {"epochs": 0, "batch": 1, "micro_batch": 1, "patience": 1, "seed": 0})


@dataclass(frozen=True, slots=True, kw_only=True)
class FullSettings:
    """Settings of end-to-end tuning of all blocks at once (`tuning.full`)."""

    epochs: int = 3
    """Passes over the training sequences at most, 0 or more; the rate falls linearly to zero over them."""
    rate: float = 0.005
    """First learning rate of Adam, in units of the root mean square of the trained plane, above 0."""
    batch: int = 4
    """Sequences per step of Adam, 1 or more."""
    micro_batch: int = 4
    """Sequences in memory at once, 1 or more: bounds activations and logits, changes nothing but rounding."""
    evaluate_every: int = 14
    """Steps between two evaluations on the held-out sequences, 1 or more."""
    patience: int = 3
    """Evaluations without a better held-out divergence after which tuning stops, 1 or more."""
    checkpoint_every: int = 28
    """Steps between two checkpoints from which a killed run resumes, 1 or more."""
    held_out: float = 0.125
    """Share of the sequences that is held out, above 0 and below 1; at least one sequence, drawn by the seed."""
    bf16: bool = False
    """Computes the forward of student and teacher in bfloat16; masters and the divergence stay float32."""
    recode_share: float = 0.01
    """Largest share of the code groups of additive codebooks that may change at once, 0 (none) to 1."""
    recode_every: int = 7
    """Steps whose gradients are combined into one change of codes, 1 or more."""
    code_rate: float = 0.25
    """Distance of the target weight from the present one when codes change, in units of its root mean square, 0 or
    more, where the gradients are only noise; √`recode_every` times as far where all of them agree."""
    seed: int = 0
    """Seed of the draw of the held-out sequences and of the order of the others, 0 or more."""

    def __post_init__(self) -> None:
        least = {"epochs": 0, "batch": 1, "micro_batch": 1, "patience": 1, "seed": 0}
        _check(self, least | {"evaluate_every": 1, "checkpoint_every": 1, "recode_every": 1})
        for name, most in (("recode_share", 1), ("code_rate", math.inf)):
            if not 0 <= getattr(self, name) <= most:
                raise RecipeError(f"tuning with {name}={getattr(self, name)}", allowed=f"0 to {most}")


def _check(settings: Settings | FullSettings, least: dict[str, int]) -> None:
    for name, value in least.items():
        if getattr(settings, name) < value:
            raise RecipeError(f"tuning with {name}={getattr(settings, name)}", allowed=f"{value} or more")
    if not 0 < settings.rate < math.inf:
        raise RecipeError(f"tuning with rate={settings.rate}", allowed="more than 0")
    if not 0 < settings.held_out < 1:
        raise RecipeError(f"tuning with held_out={settings.held_out}", allowed="more than 0, less than 1")
