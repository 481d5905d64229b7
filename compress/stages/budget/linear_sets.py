"""Sets of linears that get one setting together, with the candidates measured for each; kept as JSON."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Candidate:
    """A setting that a set may get, with its size and loss."""

    options: dict[str, Any]
    """Option overrides, as the method's `candidates` lists them."""
    overrides: dict[str, dict[str, Any]]
    """Linear -> options that differ from the stage's: the candidate's, those shared by the set, the pinned size."""
    size_bits: int
    """Stored bits of all linears of the set."""
    loss: float
    """Divergence in nats per token."""


@dataclass(slots=True)
class LinearSet:
    """Linears that get one candidate: those that share an input, or one matrix of an expert."""

    linears: list[str]
    weights: int
    """Number of weights of all linears."""
    candidates: list[Candidate] = field(default_factory=list)
    """Coarse to fine; those that this set cannot take are left out."""


def to_json(sets: list[LinearSet]) -> list[dict[str, Any]]:
    """Returns the JSON form; infinity, which JSON has no number for, becomes text."""
    return [_mapped(dataclasses.asdict(part), lambda value: "inf" if value == math.inf else value) for part in sets]


def from_json(data: list[dict[str, Any]]) -> list[LinearSet]:
    """Reads the JSON form."""
    plain = [_mapped(entry, lambda value: math.inf if value == "inf" else value) for entry in data]
    return [
        LinearSet(entry["linears"], entry["weights"], [Candidate(**values) for values in entry["candidates"]])
        for entry in plain
    ]


def _mapped(value: Any, change: Any) -> Any:
    """Returns a JSON structure with every leaf changed."""
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return change(value)
