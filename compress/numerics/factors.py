"""Low-rank factors of a weight: the best ones under a Gram matrix, and the best left factor for a given right one.

For a weight W and inputs X with Gram matrix G = XᵀX (rows of X are tokens), min ‖(W − W')X‖ over rank r is attained by
W' = U Uᵀ W, where U are the r leading eigenvectors of W G Wᵀ: the layer's outputs are projected on their leading
directions. No factor of G is inverted, so inputs that were never active, or that depend on each other, need no care.

Shape letters: N out features, K in features, r rank, D the smaller of N and K.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Directions(NamedTuple):
    """Leading output directions of a layer, and the energy along each."""

    left_ND: torch.Tensor  # noqa: N815
    """float64, orthonormal columns, strongest first."""
    energy_D: torch.Tensor  # noqa: N815
    """float64: squared singular values of W G^(1/2), descending, at least 0."""


def directions(w_NK: torch.Tensor, gram_KK: torch.Tensor | None, damping: float) -> Directions:
    """Returns the output directions of `w_NK` for inputs of this Gram matrix; None: white inputs, plain SVD.

    `damping` times the mean diagonal is added to the diagonal of G: it says how much the directions that the
    calibration inputs lack are worth. Everything is made in float64.
    """
    w_NK = w_NK.double()
    gram_KK = None if gram_KK is None else damped(gram_KK, damping)
    if w_NK.shape[0] <= w_NK.shape[1]:
        energy_NN = w_NK @ (w_NK.T if gram_KK is None else gram_KK @ w_NK.T)
        energy_D, left_ND = torch.linalg.eigh((energy_NN + energy_NN.T) / 2)
        return Directions(left_ND.flip(1), energy_D.flip(0).clamp_min(0))
    # fewer inputs than outputs: the same directions from the smaller side, by a square root of G
    half_NK = w_NK if gram_KK is None else w_NK @ _square_root(gram_KK)
    energy_D, right_KD = torch.linalg.eigh(half_NK.T @ half_NK)
    left_ND, triangle_DD = torch.linalg.qr(half_NK @ right_KD.flip(1))
    # eigenvectors of the small side times C Wᵀ are orthogonal but for rounding; QR removes that, strong columns first
    return Directions(left_ND, triangle_DD.diagonal().square())


def truncated(w_NK: torch.Tensor, leading: Directions, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns L [N, r] and R [r, K] in float64 with L·R = U Uᵀ W; column i of L has the norm of row i of R."""
    left_Nr = leading.left_ND[:, :rank]
    right_rK = left_Nr.T @ w_NK.double()
    share_r = right_rK.norm(dim=1).sqrt()
    share_r = torch.where(share_r > 0, share_r, 1.0)
    return left_Nr * share_r, right_rK / share_r[:, None]


def refitted(w_NK: torch.Tensor, right_rK: torch.Tensor, gram_KK: torch.Tensor, damping: float) -> torch.Tensor:
    """Returns the L [N, r] in float64 that minimises ‖(W − L·R)X‖ for an R that is given: W G Rᵀ (R G Rᵀ)⁻¹.

    The inverse leaves out what is below the rounding of the largest eigenvalue.
    """
    gram_KK, right_rK = damped(gram_KK, damping), right_rK.double()
    seen_Kr = gram_KK @ right_rK.T
    inner_rr = right_rK @ seen_Kr
    values_r, vectors_rr = torch.linalg.eigh((inner_rr + inner_rr.T) / 2)
    least = values_r[-1].clamp_min(0) * len(gram_KK) * torch.finfo(torch.float64).eps
    inverse_r = torch.where(values_r > least, values_r, torch.inf).reciprocal()
    left_Nr: torch.Tensor = (w_NK.double() @ seen_Kr) @ (vectors_rr * inverse_r) @ vectors_rr.T
    return left_Nr


def lost(w_NK: torch.Tensor, other_NK: torch.Tensor, gram_KK: torch.Tensor) -> float:
    """Returns ‖(W − Ŵ)X‖², in float64."""
    wrong_NK = w_NK.double() - other_NK.double()
    return float(((wrong_NK @ gram_KK.double()) * wrong_NK).sum())


def damped(gram_KK: torch.Tensor, damping: float) -> torch.Tensor:
    """Returns G + damping · mean(diag G) · I in float64; a Gram matrix of zeros becomes the identity."""
    gram_KK = gram_KK.double()
    mean = gram_KK.diagonal().mean()
    unit_KK = torch.eye(len(gram_KK), dtype=gram_KK.dtype, device=gram_KK.device)
    return unit_KK if mean == 0 else gram_KK + damping * mean * unit_KK


def _square_root(gram_KK: torch.Tensor) -> torch.Tensor:
    """Returns C [K, K] with C Cᵀ = G; what rounding made of an eigenvalue of zero counts as zero."""
    values_K, vectors_KK = torch.linalg.eigh(gram_KK)
    root_KK: torch.Tensor = vectors_KK * values_K.clamp_min(0).sqrt()
    return root_KK
