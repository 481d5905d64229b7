"""Gives tensors the names, and the parts, that checkpoints of their architecture have on the hub.

transformers renames and joins tensors when it loads a model: one parameter holds a matrix of every expert, or gate
above up. Other programs read the names of the hub.

Shape letters: N rows, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from compress.format import naming
from compress.models.linears import is_conv1d
from compress.models.moe.layouts import expert_layout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Place(NamedTuple):
    """A matrix of a checkpoint on the hub that holds rows of a linear."""

    name: str
    """Path of the matrix, without `.weight`."""
    start: int
    stop: int
    """Its rows of the linear."""


def as_stored(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns tensors of the model under the names, and split, as checkpoints of its architecture have them.

    Tensors that are none of the model's, such as heads for training that a copy carries over, stay as they are.
    """
    from transformers.core_model_loading import revert_weight_conversion

    own = model.state_dict().keys() & tensors.keys()
    converted = revert_weight_conversion(model, {name: tensors[name] for name in tensors if name in own})
    others = {name: tensor for name, tensor in tensors.items() if name not in own}
    return {name: tensor.contiguous() for name, tensor in (converted | others).items()}


def places(model: PreTrainedModel, linears: Iterable[str]) -> dict[str, tuple[Place, ...]]:
    """Returns where the rows of each linear, of those named, lie on the hub.

    Rows of one linear may lie in several matrices (gate and up of an expert). The answer is empty for a linear whose
    rows lie in a matrix with rows of others, or in another order. Found by sending the numbers of the rows through the
    conversion of transformers.

    Args:
        model: the model, possibly on the meta device.
        linears: names of linears, those of experts as `format.naming` gives them, all of a projection together.
    """
    owners: list[str] = []
    starts = [0]
    probes: dict[str, list[torch.Tensor]] = {}
    for name in linears:
        rows, columns_first = _rows(model, name)
        numbers = torch.arange(starts[-1], starts[-1] + rows, dtype=torch.float64)
        probes.setdefault(naming.parameter(name), []).append(numbers[None, :] if columns_first else numbers[:, None])
        owners.append(name)
        starts.append(starts[-1] + rows)
    stacked = {parameter: _parameter(model, parameter, parts) for parameter, parts in probes.items()}
    found: dict[str, list[Place]] = {name: [] for name in owners}
    bounds = torch.tensor(starts)
    for stored, tensor in as_stored(model, stacked).items():
        numbers = tensor.flatten().long()
        first, last = int(numbers[0]), int(numbers[-1])
        number = int(torch.searchsorted(bounds, first, right=True)) - 1
        alone = last < starts[number + 1] and torch.equal(numbers, torch.arange(first, last + 1))
        if alone and stored.endswith(".weight"):
            begin = starts[number]
            found[owners[number]].append(Place(stored.removesuffix(".weight"), first - begin, last + 1 - begin))
    return {name: tuple(sorted(parts, key=lambda part: part.start)) for name, parts in found.items()}


def _rows(model: PreTrainedModel, linear: str) -> tuple[int, bool]:
    """Returns the rows of a linear, and whether its parameter holds the columns first."""
    if (expert := naming.parse_expert(linear)) is None:
        shape = model.get_parameter(f"{linear}.weight").shape
        transposed = is_conv1d(model.get_submodule(linear))
        return shape[transposed], transposed
    layout = expert_layout(model.get_submodule(expert[0]))
    assert layout is not None, f"{expert[0]} has no experts"
    stack = layout[expert[1]]
    return stack.shape[0], stack.transposed


def _parameter(model: PreTrainedModel, name: str, parts: list[torch.Tensor]) -> torch.Tensor:
    """Returns the numbers of rows in the shape of the parameter, with one column."""
    parameter = model.get_parameter(name)
    numbers = torch.stack(parts) if parameter.dim() == 3 else torch.cat(parts)
    assert parameter.dim() == 2 or len(numbers) == len(parameter), f"{name}: {len(numbers)} of {len(parameter)} experts"
    return numbers
