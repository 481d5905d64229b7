"""dense: every weight decoded, the plain checkpoint of the original architecture. Nothing is saved in size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from compress.exports.linear import Linear
from compress.format.packed import PackedTensor


def reason(linear: Linear) -> str | None:
    """See `Target.reason`: nothing is packed."""
    return "the target is dense"


def arrange(linears: Mapping[str, Linear]) -> dict[str, Linear]:
    """See `Target.arrange`."""
    return dict(linears)


def tensors(linear: Linear, packed: PackedTensor) -> dict[str, torch.Tensor]:
    """Never called: no linear is stored packed."""
    raise AssertionError("the dense target holds no packed linear")


def decode(linear: Linear, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Never called: no linear is stored packed."""
    raise AssertionError("the dense target holds no packed linear")


def describe(linears: Mapping[str, Linear], dense: list[str]) -> dict[str, Any]:
    """See `Target.describe`: nothing."""
    return {}
