"""A stand-in answers every way of multiplying by an expert's matrix, and refuses the wrong way round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from compress.errors import ModelError
from compress.models.moe.layouts import Stack
from compress.models.moe.stand_in import StackStandIn

X_TK = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
X_ETK = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))
W_ENK = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2))
BIAS_N = torch.arange(4.0)

OUT_IN: dict[str, Callable[[Any], torch.Tensor]] = {
    "linear": lambda w: nn.functional.linear(X_TK, w[1]),
    "linear with bias": lambda w: nn.functional.linear(X_TK, weight=w[torch.tensor(1)], bias=BIAS_N),
    "@ T": lambda w: X_TK @ w[1].T,
    "matmul t()": lambda w: X_TK.matmul(w[-2].t()),
    "mm transpose": lambda w: torch.mm(X_TK, w[1].transpose(-1, -2)),
    "bmm transpose": lambda w: torch.bmm(X_ETK, w.transpose(1, 2)),
    "batched @ mT": lambda w: X_ETK @ w.mT,
    "loop": lambda w: torch.stack([X_TK @ matrix.float().T for matrix in w]),
    "view": lambda w: X_TK @ w.view((-1, 4, 6))[0].T,
}
IN_OUT: dict[str, Callable[[Any], torch.Tensor]] = {
    "@": lambda w: X_TK @ w[1],
    "linear of T": lambda w: nn.functional.linear(X_TK, w[1].T),
    "bmm": lambda w: torch.bmm(X_ETK, w.to(torch.float32)),
    "batched matmul": lambda w: torch.matmul(X_ETK, w),
}
CASES = [(False, name) for name in OUT_IN] + [(True, name) for name in IN_OUT]


def stand_in(transposed: bool) -> tuple[StackStandIn, torch.Tensor]:
    held = W_ENK.mT if transposed else W_ENK
    stack = Stack("weight", 3, (4, 6), transposed)
    return StackStandIn(stack, lambda expert, x: x @ W_ENK[expert].T, held), held


@pytest.mark.parametrize(("transposed", "way"), CASES)
def test_products(transposed: bool, way: str) -> None:
    stands, held = stand_in(transposed)
    use = (IN_OUT if transposed else OUT_IN)[way]
    torch.testing.assert_close(use(stands), use(held))
    assert stands.shape == held.shape and stands[0].shape == held[0].shape and len(stands) == 3
    assert stands.size(0) == 3 and stands.dim() == 3 and stands.dtype == torch.float32


@pytest.mark.parametrize(
    "use",
    [
        lambda w: torch.randn(5, 4) @ w[1],  # the other way round
        lambda w: nn.functional.linear(torch.randn(5, 4), w[1].T),
        lambda w: torch.bmm(torch.randn(3, 5, 4), w),
        lambda w: w[1] @ X_TK.T,
        lambda w: torch.mul(w[1], 2),
        lambda w: torch.relu(w[1]),
        lambda w: torch.einsum("tk,enk->ten", X_TK, w),
        lambda w: w.view(4, 3, 6),
        lambda w: w.transpose(0, 1),
        lambda w: w.sum(),
    ],
)
def test_any_other_use_is_refused(use: Callable[[Any], Any]) -> None:
    with pytest.raises(ModelError, match=r"uses the experts' parameter 'weight' in an unexpected way"):
        use(stand_in(False)[0])
