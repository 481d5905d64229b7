"""None: packs nothing. Linears stay as the source has them: dense, decoded or, with --keep-codes, with their codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compress.errors import MethodError

if TYPE_CHECKING:
    import torch

    from compress.calibration.stats import LayerStats
    from compress.format.packed import PackedTensor

KIND = "pack"
NEEDS: frozenset[str] = frozenset()
PACKS = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """No options."""


def check(shape: tuple[int, int], config: Config) -> None:
    """Raises MethodError: this method can treat no linear."""
    raise MethodError("the method none packs no linear", do="Choose a method that does; `compress methods` lists them")


def solve(w_NK: torch.Tensor, stats: LayerStats | None, config: Config) -> PackedTensor:
    """Raises MethodError, as `check`."""
    raise MethodError("the method none packs no linear", do="Choose a method that does; `compress methods` lists them")
