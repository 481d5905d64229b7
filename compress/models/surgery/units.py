"""Declares coupled structures: units of a model, each with the rows and columns that can only be removed together.

Shape letters: U units, C channels of one unit, F positions of a member that share one channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from compress.models.linears import is_conv1d

Kind = Literal["kv", "query", "mlp", "hidden"]


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A parameter that loses rows or columns with every unit."""

    tensor: str
    """Dotted name of the parameter."""
    dim: int
    """Dimension along which the units lie; of a fused parameter, in the slice of one expert."""
    index_UCF: torch.Tensor  # noqa: N815
    """int64 [U, C, F]: positions along `dim`. Query heads that share a key head are F positions of its channels."""
    expert: int | None = None
    """Slice of a fused parameter."""
    scored: bool = True
    """False for biases and other members that do not affect the score."""
    enters: bool = False
    """True where the positions are inputs of a linear: what activation scores are read from."""


@dataclass(frozen=True, slots=True, eq=False)
class Coupled:
    """Units of one module. Each can be removed from the model together with all its members."""

    name: str
    """Path of the module, with the number of the expert or of the key-value group behind it."""
    kind: Kind
    block: int | None
    """Number of the block; None for hidden channels, which run through all of them."""
    tie: str
    """Sets of one tie must lose equally many units: experts of a layer, groups of an attention."""
    members: tuple[Member, ...]
    """The root first: the key projection, the gate, a norm."""
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Module -> attribute -> by how much each unit counts in it (one key head: 1 of num_key_value_heads)."""
    config: Mapping[str, int] = field(default_factory=dict)
    """Key of the configuration -> by how much each unit counts in it, where all layers are alike."""
    constants: Mapping[str, int] = field(default_factory=dict)
    """Keys that the configuration must state once units are gone: it may derive them from those above."""

    @property
    def units(self) -> int:
        """Number of units."""
        return self.members[0].index_UCF.shape[0]


def unit_parameters(units: Coupled, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Returns how many parameters one unit of the set has."""
    total = 0
    for member in units.members:
        shape = shapes[member.tensor][1:] if member.expert is not None else shapes[member.tensor]
        size = member.index_UCF[0].numel()
        for dim, length in enumerate(shape):
            size *= length if dim != member.dim else 1
        total += size
    return total


def linear_members(
    model: nn.Module, outputs: list[tuple[str, torch.Tensor]], inner: tuple[str, torch.Tensor]
) -> tuple[Member, ...]:
    """Returns members of linears: the rows of those in `outputs`, with their biases, and the columns of `inner`."""
    members = [Member(f"{path}.weight", dim_of(model, path, 0), index_UCF) for path, index_UCF in outputs]
    path, index_UCF = inner
    members.append(Member(f"{path}.weight", dim_of(model, path, 1), index_UCF, enters=True))
    biased = [(path, index) for path, index in outputs if getattr(model.get_submodule(path), "bias", None) is not None]
    members += [Member(f"{path}.bias", 0, index_UCF, scored=False) for path, index_UCF in biased]
    return tuple(members)


def dim_of(model: nn.Module, path: str, dim: int) -> int:
    """Returns the dimension of a linear's outputs (0) or inputs (1): a Conv1D keeps its weight the other way round."""
    return 1 - dim if is_conv1d(model.get_submodule(path)) else dim


def size_of(module: nn.Module) -> tuple[int, int]:
    """Returns the outputs and inputs of a linear."""
    rows, columns = module.get_parameter("weight").shape
    return (columns, rows) if is_conv1d(module) else (rows, columns)
