"""Which modules count as linears."""

from __future__ import annotations

import torch
from torch import nn

from compress.models.linears import find_linears


class Grouped(nn.Linear):
    """Multiplies each half of the features by a half of the weight, as DeepSeek V4 does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = self.weight.view(2, -1, self.in_features)
        return torch.cat([part @ half.T for part, half in zip(x.chunk(2, -1), halves, strict=True)], -1)


def test_a_linear_with_a_forward_of_its_own_is_none() -> None:
    block = nn.ModuleDict({"plain": nn.Linear(4, 4), "grouped": Grouped(4, 4)})
    assert [ref.name for ref in find_linears(block, "block")] == ["block.plain"]
