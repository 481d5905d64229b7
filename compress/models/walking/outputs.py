"""Reads and builds the output of a decoder block: hidden states, alone or first in a tuple with other values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from compress.errors import ModelError


class Absent:
    """Stands for a tensor that a silenced block would have returned beside its hidden states."""


ABSENT = Absent()


@dataclass(frozen=True, slots=True)
class OutputForm:
    """The form of a block's output."""

    container: type | None
    """tuple or list; None where the hidden states are returned alone."""
    beside: tuple[Any, ...] = ()
    """The values behind the hidden states, with `ABSENT` in place of tensors."""

    @classmethod
    def of(cls, output: Any, layer: str) -> OutputForm:
        """Returns the form of `output`; ModelError if it is not clear where its hidden states are."""
        hidden_states(output, layer)
        if isinstance(output, torch.Tensor):
            return cls(None)
        return cls(list if isinstance(output, list) else tuple, tuple(map(_without_tensors, output[1:])))

    def around(self, hidden_BTH: torch.Tensor) -> Any:
        """Returns a block output of this form with these hidden states."""
        return hidden_BTH if self.container is None else self.container([hidden_BTH, *self.beside])


def hidden_states(output: Any, layer: str) -> torch.Tensor:
    """Returns the hidden states [B, T, H] in a block's output.

    Raises:
        ModelError: the output is neither a tensor nor a tuple or list that begins with one; the block is named.
    """
    plain = isinstance(output, list) or type(output) is tuple
    first = output[0] if plain and output else output
    if not isinstance(first, torch.Tensor):
        raise ModelError(
            f"this decoder block returns a {type(output).__name__}",
            allowed="blocks that return hidden states, alone or first in a tuple",
            layer=layer,
        )
    return first


def holds_absent(value: Any) -> bool:
    """Returns whether any argument contains `ABSENT`."""
    if isinstance(value, Mapping):
        return any(map(holds_absent, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds_absent, value))
    return value is ABSENT


def _without_tensors(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else ABSENT
