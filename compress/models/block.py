"""Block: a decoder block whose weights are in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Block:
    """A decoder block whose weights are in memory, until `BlockWalker.free_block` frees them."""

    index: int
    name: str
    """Dotted path in the model."""
    module: nn.Module
