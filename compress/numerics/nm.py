"""n:m sparsity: masks that keep n of every m consecutive inputs of a row, and the tensor packed from what they keep.

Shape letters: N out features, K in features, G groups of m inputs.
"""

from __future__ import annotations

import torch

from compress.errors import MethodError
from compress.format.layouts import dense, sparse_nm
from compress.format.packed import PackedTensor


def check_pattern(n: int, m: int) -> None:
    """Raises MethodError unless 1 ≤ n < m, and m is at most what a stored index can count."""
    if not 1 <= n < m <= sparse_nm.WIDEST:
        raise MethodError(f"n={n}, m={m}", allowed=f"1 ≤ n < m ≤ {sparse_nm.WIDEST}", do="Give for instance n=2, m=4")


def check_width(in_features: int, m: int) -> None:
    """Raises MethodError unless a row divides into groups of m."""
    if in_features % m:
        raise MethodError(
            f"m={m} does not divide in_features={in_features}",
            allowed=", ".join(str(size) for size in (2, 4, 8, 16, 32) if in_features % size == 0) or "none of 2 to 32",
            do="Give another m, or leave the layer dense with --skip",
        )


def mask_nm(score_NK: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Returns the mask, bool [N, K], that keeps the n highest scores of every m consecutive inputs of a row.

    Of equal scores the first is kept, so exactly n are, whatever the scores. Raises MethodError for a width that m does
    not divide and for scores that are NaN, which have no order.
    """
    check_pattern(n, m)
    rows, width = score_NK.shape
    check_width(width, m)
    if score_NK.isnan().any():
        raise MethodError("a score of the n:m mask is NaN", do="Check the weights and the calibration inputs")
    order_NGm = score_NK.reshape(rows, width // m, m).argsort(dim=-1, descending=True, stable=True)
    mask_NGm = torch.zeros(order_NGm.shape, dtype=torch.bool, device=score_NK.device)
    return mask_NGm.scatter_(-1, order_NGm[..., :n], True).view(rows, width)


def pack(w_NK: torch.Tensor, mask_NK: torch.Tensor, n: int, m: int) -> PackedTensor:
    """Returns what the mask keeps of `w_NK` as a sparse_nm.v1 tensor with bfloat16 values."""
    values_NJ = sparse_nm.kept(w_NK, mask_NK, n=n, m=m).to(torch.bfloat16)
    return sparse_nm.pack(dense.pack(values_NJ), mask_NK, n=n, m=m)
