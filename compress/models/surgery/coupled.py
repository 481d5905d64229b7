"""Finds coupled structures: rows and columns of several parameters that can only be removed together.

An attention head is rows of the query, key and value projections and columns of the output projection; a channel of an
MLP is a row of gate and up and a column of down. Nothing is traced: projections are known by the names that
architectures give them.

Shape letters: U units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.errors import ModelError
from compress.models.linears import is_conv1d
from compress.models.surgery.attention_units import attention_units, find_attentions
from compress.models.surgery.mlp_units import mlp_units
from compress.models.surgery.units import Coupled, Kind, Member, dim_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def coupled(model: PreTrainedModel, block_names: list[str], kinds: tuple[Kind, ...]) -> list[Coupled]:
    """Returns the coupled structures of `kinds` in order of the blocks; `kv` and `query` exclude each other.

    Raises:
        ModelError: a block has an attention or an MLP that is not known; the block is named.
    """
    assert not {"kv", "query"} <= set(kinds), "a query head would be in two structures"
    sets: list[Coupled] = []
    for number, name in enumerate(block_names):
        if {"kv", "query"} & set(kinds):
            sets += attention_units(model, name, number, "kv" if "kv" in kinds else "query")
        if "mlp" in kinds:
            sets += mlp_units(model, name, number)
    if "hidden" in kinds:
        sets.append(_hidden(model, block_names))
    return sets


def _hidden(model: PreTrainedModel, block_names: list[str]) -> Coupled:
    """Returns the channels of the residual stream: one set for the whole model."""
    width: int = model.config.get_text_config().hidden_size
    index_U = torch.arange(width).view(width, 1, 1)
    sets = coupled(model, block_names, ("query", "mlp"))
    inner = {member.tensor: member.dim for units in sets for member in units.members if member.enters}
    attentions = [found for name in block_names for found in find_attentions(model.get_submodule(name), name)]
    in_attention = tuple(f"{attention.path}." for attention in attentions)
    in_block = tuple(f"{name}." for name in block_names)
    members: list[Member] = []
    for path, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{key}"
            if name in model.all_tied_weights_keys:
                continue
            scored = name.startswith(in_block)
            if parameter.dim() != 1:
                # linears that read the stream have it along their inputs, those that write it along their outputs
                dim = 1 - inner[name] if name in inner else dim_of(model, path, 1)
                members += _of_matrices(name, parameter, dim, index_U, scored, enters=scored and name not in inner)
                continue
            linear = isinstance(module, nn.Linear) or is_conv1d(module)
            if f"{path}.weight" not in inner if linear else name.startswith(in_attention):
                continue  # belongs to heads or channels
            if len(parameter) != width:
                raise ModelError(
                    f"a vector of {len(parameter)} does not fit a residual stream of {width} channels", layer=name
                )
            members.append(Member(name, 0, index_U, scored=scored and not linear))
    members.sort(key=lambda member: "norm" not in member.tensor)  # the root is a norm
    constants = {"head_dim": attentions[0].head_dim}
    return Coupled("", "hidden", None, "hidden", tuple(members), {}, {"hidden_size": 1}, constants)


def _of_matrices(
    name: str, parameter: nn.Parameter, dim: int, index_UCF: torch.Tensor, scored: bool, *, enters: bool
) -> Iterator[Member]:
    """Yields the member of a matrix, or of each expert of a fused parameter; `dim` is that of the stream."""
    shape, width = tuple(parameter.shape[-2:]), len(index_UCF)
    if shape[dim] != width:
        raise ModelError(f"its shape {shape} does not fit a stream of {width} channels", layer=name)
    for expert in range(parameter.shape[0]) if parameter.dim() == 3 else [None]:
        yield Member(name, dim, index_UCF, expert, scored=scored, enters=enters)
