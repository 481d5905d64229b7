"""Adaptive sparse training: trains n:m masks and the kept weights towards a dense teacher.

Source: Huang et al., "Pruning Large Language Models with Semi-Structured Adaptive Sparse Training", arXiv 2407.20584:
straight-through gradients, masks from the largest weights every few steps, a growing decay of the pruned weights
(SR-STE, arXiv 2102.04010), cross-entropy and the divergence from the dense model, SLoRB. With `learned`: Fang et
al., "MaskLLM", arXiv 2409.17481, probabilities of all patterns of a group, the weights as they are.

Differs from the paper in:
- the decay is divided by AdamW's own second moment, and never takes a weight across zero;
- with SparseGPT as the start, the kept weights start from its corrected values;
- the factors of SLoRB are stored in bfloat16 and counted in every figure of bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compress.errors import MethodError
from compress.methods.protocol import TrainingOptions
from compress.numerics import learned_masks, masks, nm

KIND = "train"
NEEDS = frozenset({"tokens"})
TRAINER = "compress.training.ast"
STARTS = ("magnitude", "wanda", "sparsegpt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(TrainingOptions):
    """Options of adaptive sparse training."""

    n: int = 2
    """Weights kept of every `m` consecutive inputs of a row, 1 to m - 1."""
    m: int = 4
    """Input features of a group; must divide the input width."""
    start: str = "magnitude"
    """The method that gives the first masks: `magnitude`, `wanda` or `sparsegpt`."""
    refresh_every: int = 10
    """Steps between two choices of the masks by the largest weights, 1 or more; 0: the first masks stay."""
    decay: float = 1e-3
    """Decay of pruned weights after its rise (λ of the paper), 0 or more."""
    ramp: float = 0.5
    """Share of the steps over which the decay rises from zero, 0 to 1."""
    slorb: int = 0
    """Input features of one block of SLoRB, a low-rank product added to the masked weight (k of the paper); 0: none."""
    learned: bool = False
    """Learns the masks alone and keeps the weights (MaskLLM), with the start as prior; no decay, no SLoRB."""
    keep_large: float = 1e-5
    """Reward per square of a kept weight, with `learned`; falls linearly to zero, 0 or more."""
    teacher: str | None = None
    """The dense model to learn from: atlas, a folder or a hub id. Not given: the model that the recipe starts from."""
    kl_weight: float = 0.67
    """Share of the divergence from the teacher in the loss, 0 to 1; the cross-entropy with the text has the rest."""
    temperature: float = 2.0
    """Divides the logits of teacher and student, above 0; the divergence is multiplied by its square."""
    rate: float = 5e-4
    """Learning rate after the warm-up, above 0."""

    def __post_init__(self) -> None:
        nm.check_pattern(self.n, self.m)
        if self.start not in STARTS:
            raise MethodError(f"start={self.start!r}", allowed=", ".join(STARTS))
        if self.refresh_every < 0:
            raise MethodError(f"refresh_every={self.refresh_every}", allowed="0 or more")
        for name in ("decay", "keep_large"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise MethodError(f"{name}={getattr(self, name)}", allowed="0 or more")
        for name in ("ramp", "kl_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise MethodError(f"{name}={getattr(self, name)}", allowed="0 to 1")
        if self.slorb < 0:
            raise MethodError(f"slorb={self.slorb}", allowed="0 or more")
        if self.slorb and self.learned:
            raise MethodError(f"slorb={self.slorb} with learned masks, whose weights stay", do="Leave one of them out")
        if not 0 < self.temperature < float("inf"):
            raise MethodError(f"temperature={self.temperature}", allowed="more than 0")


def stored_bits(config: Config) -> float:
    """Returns the stored bits per weight: kept weights in bfloat16 and their places, SLoRB not counted."""
    return config.n / config.m * (16 + math.ceil(math.log2(config.m)))


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat."""
    nm.check_width(shape[1], config.m)
    if config.learned:
        learned_masks.check_patterns(config.n, config.m)
    if config.slorb:
        masks.check_blocks(shape[1], config.slorb)
        if shape[1] // config.slorb > shape[0]:
            raise MethodError(
                f"slorb={config.slorb} makes factors larger than the layer of {shape[0]} × {shape[1]}",
                do="Give larger blocks",
            )
