"""Sets of linears and what each may be packed as: measured once, kept as JSON, chosen from."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Choice:
    """One candidate of a set, and what is known about it."""

    options: dict[str, Any]
    """As the method offers it."""
    overrides: dict[str, dict[str, Any]]
    """Linear -> the options in which it really differs from the stage's: decided for the set, pinned to its bits."""
    size_bits: int
    """Stored bits of all linears of the set."""
    loss: float
    """Divergence in nats per token."""


@dataclass(slots=True)
class LinearSet:
    """Linears that get one choice."""

    linears: list[str]
    weights: int
    choices: list[Choice] = field(default_factory=list)
    """In the order in which the method offers them, coarse to fine; what this set cannot take is missing."""


def to_json(sets: list[LinearSet]) -> list[dict[str, Any]]:
    """Returns the JSON form; infinity, which JSON has no number for, becomes text."""
    return [_mapped(dataclasses.asdict(one), lambda value: "inf" if value == math.inf else value) for one in sets]


def from_json(data: list[dict[str, Any]]) -> list[LinearSet]:
    """Reads the JSON form."""
    plain = [_mapped(one, lambda value: math.inf if value == "inf" else value) for one in data]
    return [LinearSet(one["linears"], one["weights"], [Choice(**choice) for choice in one["choices"]]) for one in plain]


def _mapped(value: Any, change: Any) -> Any:
    """Returns a JSON structure with every leaf changed."""
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return change(value)
