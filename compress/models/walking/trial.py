"""Runs one block by itself with zero weights to find the form of its output and the linears it does not call."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import nn

from compress.errors import ModelError
from compress.models.walking.arguments import BlockArguments
from compress.models.walking.buffers import compute_buffers, computed_buffers
from compress.models.walking.outputs import OutputForm, hidden_states
from compress.models.walking.state import Tables, with_tables, written
from compress.models.walking.watch import Watch, WatchAttributes, linear_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of running one block by itself."""

    form: OutputForm
    direct: frozenset[str]
    """Weights of linears that are used, or whose dtype or shape is read, outside the linear's own forward: names in the
    block."""
    tables: Tables = field(default_factory=dict)
    """What the block has put into tables that it received."""


def kind_of(block: nn.Module) -> Hashable:
    """Returns a value that is equal for blocks with the same modules, settings and shapes."""
    return tuple(
        (
            path,
            type(module),
            _settings(module),
            tuple((n, tuple(p.shape)) for n, p in module._parameters.items() if p is not None),
        )
        for path, module in block.named_modules()
    )


def _settings(module: nn.Module) -> tuple[tuple[str, Any], ...]:
    """The plain attributes of a module, except the number of its block."""
    plain = {n: v for n, v in vars(module).items() if isinstance(v, bool | int | float | str | None)}
    return tuple(sorted((n, v) for n, v in plain.items() if "idx" not in n))


@torch.no_grad()
def run_alone(
    model: PreTrainedModel,
    name: str,
    hidden_BTH: torch.Tensor,
    arguments: BlockArguments,
    device: torch.device,
    tables: Tables,
) -> Trial:
    """Returns what a run of the block `name` on these inputs shows; `tables` hold what earlier blocks put there.

    Tensors on meta are replaced by zeros (vectors by ones) while it runs; nothing is read from the checkpoint.
    """
    block = model.get_submodule(name)
    arguments, kept = with_tables(arguments, tables), with_tables(arguments, tables)
    with _zeros_for_weights(model, name, device), Watch(block, linear_weights(block)) as watch, WatchAttributes(watch):
        # the class's forward: the instance's is silenced
        output = type(block).forward(block, hidden_BTH, *arguments.positional, **arguments.keyword)
    if (shape := hidden_states(output, name).shape) != hidden_BTH.shape:
        raise ModelError(
            f"this decoder block returns hidden states of shape {list(shape)} for {list(hidden_BTH.shape)}",
            allowed="blocks that keep the shape",
            layer=name,
        )
    return Trial(OutputForm.of(output, name), frozenset(watch.direct), written(kept, arguments))


@contextmanager
def _zeros_for_weights(model: PreTrainedModel, name: str, device: torch.device) -> Iterator[None]:
    """While open, every tensor of the block that is on meta has memory; afterwards it is the tensor on meta again."""
    places = {
        f"{name}.{path}.{key}" if path else f"{name}.{key}": (table, key)
        for path, module in model.get_submodule(name).named_modules()
        for table in (module._parameters, module._buffers)
        for key, tensor in table.items()
        if tensor is not None and tensor.device.type == "meta"
    }
    originals = {full: table[key] for full, (table, key) in places.items()}
    computed = places.keys() & computed_buffers(model)
    compute_buffers(model, computed, device)
    for full in places.keys() - computed:
        table, key = places[full]
        table[key] = _filled(originals[full], device)
    try:
        yield
    finally:
        for full, (table, key) in places.items():
            table[key] = originals[full]


def _filled(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Zeros, or ones for a vector. Memory from numpy.zeros is mapped but not used until it is written."""
    if tensor.dim() < 2:
        filled = torch.ones(tensor.shape, dtype=tensor.dtype, device=device)
    else:
        memory = torch.from_numpy(numpy.zeros(prod(tensor.shape) * tensor.itemsize, dtype=numpy.uint8))
        filled = memory.view(tensor.dtype).view(tensor.shape).to(device)
    return nn.Parameter(filled, requires_grad=False) if isinstance(tensor, nn.Parameter) else filled
