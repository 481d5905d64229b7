"""AQLM: represents each group of weights as a sum of vectors from learned codebooks, fitted to the layer's outputs.

Source: Egiazarian et al., "Extreme Compression of Large Language Models via Additive Quantization", arXiv 2401.06118;
the loss tr((W − Ŵ) G (W − Ŵ)ᵀ) of its eq. 1, G = X Xᵀ, is lowered by codes (§3.2) and codebooks (§3.3) in turn. Its
third step, tuning each block, is `--tune block` and works with every method.

Differs from the paper in:
- codebooks are the least-squares solution for the codes, by preconditioned conjugate gradients; the paper takes a
  hundred steps of Adam. Row scales are fitted with them;
- the first codes come from a pass over the groups that compensates each group's error in the later groups, not from
  k-means alone; k-means starts with k-means++ and sees a sample of the groups;
- the beam runs over the codebooks of one group, all of them searched together; R G is updated by a product of rank g,
  where the published code decodes the whole weight again;
- rows are lengthened at the end (`lengthen`): the output error on the calibration text rises a little, and the
  divergence of the model falls to less than half at 2 bits, since rarely used directions no longer fade;
- codes of any width are stored in that many bits; a vector stands for weights of one output feature.

Shape letters: N out features, K in features, M codebooks, J groups of g columns, V vectors of a codebook.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format.layouts import additive
from compress.format.packed import PackedTensor
from compress.numerics import additive_books as fitting
from compress.numerics import additive_codes as coding
from compress.numerics import grid, sweep

KIND = "pack"
NEEDS: frozenset[str] = frozenset({"gram_KK"})
_START_DAMPING = 0.01
"""Damping of the first codes, relative to the mean diagonal; as in GPTQ."""
_SEED = 0
"""Seed of k-means and of the order in which groups are searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Options of AQLM."""

    codebooks: int = 2
    """Number of codebooks whose vectors are added, 1 to 16."""
    code_bits: int = 8
    """Bits of one code, 1 to 16; a codebook holds 2^code_bits vectors."""
    group_size: int = 8
    """Input features that one vector stands for; must divide the input width."""
    beam_width: int = 6
    """Hypotheses kept by the beam search of the codes, 1 or more."""
    rounds: int = 6
    """Rounds in which codebooks and codes are fitted in turn, 0 or more."""
    tolerance: float = 0.005
    """Stops when a round lowers the loss by less than this share; 0 or more."""
    lengthen: float = 0.7
    """How far each row is scaled back to its length before the fit, 0 (least output error) to 1 (unbiased)."""
    damping: float = 0.0
    """Added to the diagonal of the Gram matrix, relative to its mean; 0 or more."""

    def __post_init__(self) -> None:
        for name, low, high in (("codebooks", 1, 16), ("code_bits", 1, 16)):
            if not low <= getattr(self, name) <= high:
                raise MethodError(f"{name}={getattr(self, name)}", allowed=f"{low} to {high}")
        for name, least in (("group_size", 1), ("beam_width", 1), ("rounds", 0)):
            if getattr(self, name) < least:
                raise MethodError(f"{name}={getattr(self, name)}", allowed=f"{least} or more")
        if not 0 <= self.lengthen <= 1:
            raise MethodError(f"lengthen={self.lengthen}", allowed="0 to 1")
        for name in ("tolerance", "damping"):
            if not 0 <= getattr(self, name) < math.inf:
                raise MethodError(f"{name}={getattr(self, name)}", allowed="0 or more")


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError for a linear of `shape` (N, K) that these options cannot treat."""
    grid.divisor(shape[1], config.group_size)


def nominal(bits: int) -> dict[str, Any]:
    """Returns the options of AQLM at `bits` bits: one 8-bit codebook per bit, groups of 8."""
    return {"codebooks": bits, "code_bits": 8, "group_size": 8}


def candidates(config: Config) -> list[dict[str, Any]]:
    """Returns numbers and sizes of codebooks, coarse to fine; in small layers large codebooks cost too much."""
    pairs = ((2, 4), (3, 4), (3, 5), (4, 5), (4, 6), (4, 8))
    return [{"codebooks": books, "code_bits": bits} for books, bits in pairs]


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Returns the weight as an additive.v1 tensor, fitted to the inputs that `stats` describes.

    Args:
        w_NK: the weight, float [N, K].
        stats: sums over the inputs of the linear; `gram_KK` float32 [K, K] is read.
        config: options.

    Raises:
        MethodError: a weight is not finite, or the options do not fit the shape.
    """
    assert stats is not None, "AQLM needs the Gram matrix of the inputs"
    grid.check_finite(w_NK)
    grid.divisor(w_NK.shape[1], config.group_size)
    magnitude = float(w_NK.abs().max()) or 1.0
    state = _State(w_NK.float() / magnitude, _gram(stats, config.damping), config)
    state.start()
    best = state.loss()
    for _ in range(config.rounds):
        state.fit_codebooks()
        state.search_codes(config.beam_width)
        loss = state.loss()
        if loss > (1 - config.tolerance) * best:
            break
        best = loss
    return state.packed(magnitude)


def _gram(stats: LayerStats, damping: float) -> torch.Tensor:
    """Returns the Gram matrix with a mean diagonal of one; dead inputs get that too, so their weights are kept."""
    diagonal_K = stats.gram_KK.diagonal()
    mean = float(diagonal_K.mean())
    gram_KK = stats.gram_KK.float() / mean if mean > 0 else torch.zeros_like(stats.gram_KK)
    dead_K = diagonal_K == 0
    gram_KK.diagonal().add_(damping + dead_K.float())
    return gram_KK


class _State:
    """Holds codes, codebooks and row scales while they are fitted in turn."""

    def __init__(self, w_NK: torch.Tensor, gram_KK: torch.Tensor, config: Config):
        self.w_NK, self.gram_KK, self.config = w_NK, gram_KK, config
        self.generator = torch.Generator().manual_seed(_SEED)
        norm_N = w_NK.square().mean(1).sqrt()
        self.zero_N = norm_N == 0  # rows of zeros: their scale is stored as zero, and is 1 until then
        self.scale_N = torch.where(self.zero_N, 1.0, norm_N)

    def start(self) -> None:
        """Sets the codebooks by k-means, and the first codes by a pass that compensates errors."""
        config, width = self.config, self.config.group_size
        points_Pg = (self.w_NK / self.scale_N[:, None]).view(-1, width)
        self.books_MVg = fitting.residual_kmeans(points_Pg, config.codebooks, config.code_bits, self.generator)
        # the most active groups come first, while there are many later ones to compensate their errors
        order_J = self.gram_KK.diagonal().view(-1, width).sum(1).argsort(descending=True, stable=True)
        order_K = (order_J[:, None] * width + torch.arange(width, device=order_J.device)).flatten()
        upper_KK = sweep.inverse_factor(self.gram_KK, order_K, _START_DAMPING)
        ordered_NK = self.w_NK[:, order_K]
        codes_NJM = coding.start(
            ordered_NK, upper_KK, order_J.tolist(), self.books_MVg, self.scale_N, config.beam_width
        )
        self.search = coding.Search(self.w_NK, self.gram_KK, width, codes_NJM)

    def fit_codebooks(self, steps: int = 12) -> None:
        """Fits the codebooks to the codes, then the scales to both."""
        squares = fitting.LeastSquares(self.search.codes_NJM, self.scale_N, self.gram_KK, self.books_MVg.shape)
        self.books_MVg = squares.solve(self.w_NK, self.books_MVg, steps)
        value_NK = squares.decode(self.books_MVg)
        image_NK = value_NK @ self.gram_KK
        ratio_N = (image_NK * self.w_NK).sum(1) / (image_NK * value_NK).sum(1)
        # a ratio outside comes from a row whose codes say nothing of it yet: it keeps its scale
        self.scale_N = torch.where((ratio_N > 0.5) & (ratio_N < 2), self.scale_N * ratio_N, self.scale_N)

    def search_codes(self, beam: int) -> None:
        """Searches codes for the present codebooks and scales, groups in a random order."""
        order_J = torch.randperm(self.search.codes_NJM.shape[1], generator=self.generator).tolist()
        self.search.sweep(self.books_MVg, self.scale_N, beam, order_J)

    def _lengthen(self, power: float) -> None:
        """Scales each row towards ⟨ŵ, w⟩ = ⟨w, w⟩, all the way at `power` 1.

        A least-squares fit shrinks each row, most of all in the directions that the calibration inputs rarely have. The
        codes are searched once more after this, with the scale held.
        """
        value_NK = layout_value(self.search.codes_NJM, self.books_MVg, self.scale_N)
        along_N = (value_NK * self.w_NK).sum(1) / self.w_NK.square().sum(1)
        self.scale_N = torch.where(self.zero_N, self.scale_N, self.scale_N / along_N.clamp(0.5, 2) ** power)

    def loss(self) -> float:
        """Returns tr((W − Ŵ) G (W − Ŵ)ᵀ)."""
        wrong_NK = self.w_NK - layout_value(self.search.codes_NJM, self.books_MVg, self.scale_N)
        return float(((wrong_NK @ self.gram_KK) * wrong_NK).sum(dtype=torch.float64))

    def packed(self, magnitude: float) -> PackedTensor:
        """Returns the stored form, its codes searched once more for the values that are stored."""
        self._lengthen(self.config.lengthen)
        stored_N = grid.storable(self.scale_N * magnitude)
        self.books_MVg = self.books_MVg.to(torch.float16).float()
        self.scale_N = stored_N.float() / magnitude
        self.search_codes(self.config.beam_width)
        return additive.pack(self.search.codes_NJM, self.books_MVg, stored_N.masked_fill(self.zero_N, 0))


def layout_value(codes_NJM: torch.Tensor, books_MVg: torch.Tensor, scale_N: torch.Tensor) -> torch.Tensor:
    """Returns the weight [N, K] decoded from codes, codebooks and scales."""
    return additive.assemble(additive.Expanded(codes_NJM), {"codebooks": books_MVg, "scale": scale_N})
