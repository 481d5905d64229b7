"""Rounds a weight column by column and lets later columns compensate each error: the sweep of GPTQ, SpQR and SparseGPT.

Sources: GPTQ, arXiv 2210.17323 §3; SpQR, arXiv 2306.03078 Alg. 1.

The loss of a row is (w − ŵ) G (w − ŵ)ᵀ with the Gram matrix G = Σ x xᵀ of the inputs. Once column k is rounded, the
best change of the columns behind it is known in closed form (optimal brain surgeon): with U upper triangular and
UᵀU = G⁻¹,

    e_k = (w_k − ŵ_k) / U_kk        the error in units of its price
    w_j ← w_j − e_k · U_kj          for every j > k

and the loss grows by e_k². So U_kk says what an error of column k costs after compensation; the methods weigh errors by
1 / U_kk² when they fit ranges and choose outliers or masks.

Shape letters: N out features, K in features, g columns of a group, b columns of a block. Weights are held transposed,
[K, N], so that the column being rounded is contiguous.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from compress.errors import MethodError

_BLOCK, _SPAN = 128, 16
"""Columns whose errors are gathered before they reach the columns behind the block, and behind the span."""
_FLOAT64_WIDTH = 2048
"""Gram matrices up to this width are factorised in float64; wider ones in float32, to bound memory."""


class Rounder(Protocol):
    """What a method does with the columns that the sweep hands to it."""

    def start_group(self, group: int, w_gN: torch.Tensor, d_g: torch.Tensor) -> None:
        """Fits the statistics of a group to its current, error-compensated weights; `d_g` is the diagonal of U."""

    def round(self, column: int, w_N: torch.Tensor, d: float) -> torch.Tensor:
        """Returns the stored value [N] of a column, and remembers its codes; `d` is U_kk."""


def column_order(gram_KK: torch.Tensor, act_order: bool) -> torch.Tensor | None:
    """Returns the columns by falling diagonal of the Gram matrix (ties by index), or None for the natural order.

    The most active columns come first, while there are many columns left to compensate their errors.
    """
    if not act_order:
        return None
    return gram_KK.diagonal().argsort(descending=True, stable=True)


def inverse_factor(gram_KK: torch.Tensor, order_K: torch.Tensor | None, damping: float) -> torch.Tensor:
    """Returns U float32 [K, K], upper triangular, with UᵀU = (G + damping · mean(diag G) · I)⁻¹, columns in `order_K`.

    Inputs that were never active get a unit of the mean diagonal, so that they are rounded to nearest.
    Differs from the published code, which inverts G and factorises the inverse: one Cholesky of the matrix with both
    axes reversed and one triangular inverse give the same U in a third of the work, and more exactly.

    Raises:
        MethodError: the damped matrix is not positive definite, in float64 either.
    """
    width = gram_KK.shape[0]
    dtype = torch.float64 if width <= _FLOAT64_WIDTH else torch.float32
    for attempt in dict.fromkeys((dtype, torch.float64)):  # float64 once more where float32 was not enough
        lower = _damped_reversed(gram_KK, order_K, damping, attempt)
        info = torch.empty((), dtype=torch.int32, device=lower.device)
        torch.linalg.cholesky_ex(lower, out=(lower, info))
        if int(info) == 0:
            # with P the reversal, P G P = L Lᵀ, so G⁻¹ = (P L⁻¹ P)ᵀ (P L⁻¹ P): the upper triangular P L⁻¹ P is U
            inverse = torch.eye(width, dtype=attempt, device=lower.device)
            torch.linalg.solve_triangular(lower, inverse, upper=False, out=inverse)
            del lower  # before the float32 copy: this is the place of the highest memory
            return inverse.to(torch.float32).flip(0, 1)
    raise MethodError(
        f"the Gram matrix of the inputs is not positive definite with damping={damping}",
        do="Raise --damping (0.01 to 1), or calibrate on more text",
    )


def _damped_reversed(
    gram_KK: torch.Tensor, order_K: torch.Tensor | None, damping: float, dtype: torch.dtype
) -> torch.Tensor:
    """Returns the damped Gram matrix with both axes in reversed `order_K`: the one large copy that is made."""
    if order_K is None:
        order_K = torch.arange(gram_KK.shape[0], device=gram_KK.device)
    back_K = order_K.flip(0)
    gram = gram_KK[back_K[:, None], back_K].to(dtype)
    diagonal = gram.diagonal()
    mean = float(diagonal.mean())
    dead = diagonal == 0
    # damping keeps directions that the calibration text hardly shows from asking for huge compensations
    diagonal += damping * mean
    diagonal[dead] = mean if mean > 0 else 1.0
    return gram


def sweep(w_KN: torch.Tensor, upper_KK: torch.Tensor, group_size: int, rounder: Rounder) -> None:
    """Rounds all columns of `w_KN` in order; the results are those that `rounder` keeps.

    Args:
        w_KN: weights float32 [K, N], columns in the order of `upper_KK`; overwritten.
        upper_KK: U of `inverse_factor`, float32 [K, K].
        group_size: columns of a group; it divides K.
        rounder: is told of the start of every group and of every column.

    Every column updates all columns behind it: K rank-1 updates, each bound by memory. They are gathered on two levels,
    spans of 16 and blocks of about 128 columns, and carried out as matrix products; this changes speed only. Blocks end
    at group boundaries, so a group is always fitted to fully updated weights.
    """
    width = w_KN.shape[0]
    diagonal = upper_KK.diagonal().tolist()
    for start, stop in _blocks(width, group_size):
        error_bN = torch.empty(stop - start, w_KN.shape[1], dtype=w_KN.dtype, device=w_KN.device)
        for left, right in _spans(start, stop, group_size):
            if left % group_size == 0:
                group = slice(left, left + group_size)
                rounder.start_group(left // group_size, w_KN[group], upper_KK.diagonal()[group])
            for column in range(left, right):
                d = diagonal[column]
                torch.sub(w_KN[column], rounder.round(column, w_KN[column], d), out=error_bN[column - start])
                error_bN[column - start].div_(d)
                # at once within the span: the next column needs it
                w_KN[column + 1 : right].addr_(upper_KK[column, column + 1 : right], error_bN[column - start], alpha=-1)
            # the span's errors for the rest of the block, 16 at once
            done = slice(left - start, right - start)
            w_KN[right:stop].addmm_(upper_KK[left:right, right:stop].T, error_bN[done], alpha=-1)
        # the block's errors for everything behind it
        w_KN[stop:].addmm_(upper_KK[start:stop, stop:].T, error_bN, alpha=-1)


def _blocks(width: int, group_size: int) -> Iterator[tuple[int, int]]:
    """Yields blocks that hold whole groups, or lie within one group when groups are wider than a block."""
    if group_size <= _BLOCK:
        yield from _pieces(0, width, group_size * (_BLOCK // group_size))
    else:
        for group in range(0, width, group_size):
            yield from _pieces(group, group + group_size, _BLOCK)


def _spans(start: int, stop: int, group_size: int) -> Iterator[tuple[int, int]]:
    """Yields the spans of a block; none crosses the start of a group."""
    for group in range(start, stop, group_size):
        yield from _pieces(group, min(group + group_size, stop), _SPAN)


def _pieces(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """Yields the pieces of `size` from start to stop; the last one may be shorter."""
    for left in range(start, stop, size):
        yield left, min(left + size, stop)
