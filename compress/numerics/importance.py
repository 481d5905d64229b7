"""Importance scores of units (heads, channels): the saliency of each weight, reduced over the parameters of a unit.

Shape letters: D₁ D₂ … dimensions of a parameter, U units, C channels of a unit, F positions that share a channel.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

FIRST_ORDER = ("taylor1", "taylor_mix")
SECOND_ORDER = ("taylor2", "taylor_mix")
TAYLOR = ("taylor1", "taylor2", "taylor_mix")
KINDS = (*TAYLOR, "l1", "l2", "random", "activation")
REDUCTIONS = ("sum", "mean", "max", "prod", "first")


def saliency(kind: str, w: torch.Tensor, grad: torch.Tensor | None, fisher: torch.Tensor | None) -> torch.Tensor:
    """Returns the saliency of each weight, float32 in the shape of `w`.

    `taylor1`: w·g, the change of the loss to first order when the weight is set to zero (LLM-Pruner, eq. 3 first term).
    `taylor2`: w²·F, its second order by the diagonal of the empirical Fisher matrix. `taylor_mix`: w·g − ½ w²·F.
    `l1`: |w|, `l2`: w². `grad` is the gradient of the mean loss, `fisher` the mean square of that of each sample.
    """
    w = w.float()
    if kind == "l1":
        return w.abs()
    if kind == "l2":
        return w.square()
    if kind == "taylor1":
        assert grad is not None
        return w * grad
    assert fisher is not None and kind in SECOND_ORDER, kind
    if kind == "taylor2":
        return w.square() * fisher
    assert grad is not None
    return w * grad - 0.5 * w.square() * fisher


def positions(saliency: torch.Tensor, dim: int, *, vectorize: bool) -> torch.Tensor:
    """Returns one value per position along `dim`: Σ |s| of its weights, or |Σ s| with `vectorize`."""
    others = [other for other in range(saliency.dim()) if other != dim]
    if not others:
        return saliency.abs()
    return saliency.sum(others).abs() if vectorize else saliency.abs().sum(others)


def units(members: Iterable[tuple[torch.Tensor, torch.Tensor]], reduction: str) -> torch.Tensor:
    """Returns one score per unit, float64 [U].

    `members`: of each member its values by position and its index_UCF; the root first. What shares a channel is summed,
    then the members are reduced channel by channel, then the channels of a unit are summed.
    """
    members_UC = [values.double()[index_UCF].sum(-1) for values, index_UCF in members]
    if reduction == "first":
        return members_UC[0].sum(-1)
    stacked_MUC = torch.stack(members_UC)
    reduced_UC = {
        "sum": lambda: stacked_MUC.sum(0),
        "mean": lambda: stacked_MUC.mean(0),
        "max": lambda: stacked_MUC.amax(0),
        "prod": lambda: stacked_MUC.prod(0),
    }[reduction]()
    result_U: torch.Tensor = reduced_UC.sum(-1)
    return result_U
