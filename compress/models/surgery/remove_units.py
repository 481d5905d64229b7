"""Removes units from a model: cuts their positions out of every parameter and writes the new configuration.

Shape letters: U units, P positions along a dimension.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import MethodError, ModelError, translated
from compress.models import skeleton
from compress.models.structure import ATTRIBUTES, Structure, difference, get_attribute
from compress.models.surgery.units import Coupled

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from compress.models.source import ModelSource

Place = tuple[int | None, int]
"""Expert (None: not a slice of a fused parameter) and dimension."""


@dataclass(slots=True)
class Cut:
    """Rows and columns to remove from each parameter, and the new numeric attributes of the modules."""

    gone: dict[str, dict[Place, torch.Tensor]] = field(default_factory=dict)
    """Parameter -> place -> positions (int64 [P]) to remove."""
    numbers: dict[str, dict[str, int]] = field(default_factory=dict)
    """Module -> its numbers afterwards."""

    def parameter(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the parameter without its removed rows and columns; the same tensor if none are removed."""
        for (expert, dim), left in sorted(self.gone.get(name, {}).items(), key=lambda item: item[0][0] is not None):
            if expert is None:
                tensor = tensor.index_select(dim, _others(left, tensor.shape[dim]))
        slices = {place: left for place, left in self.gone.get(name, {}).items() if place[0] is not None}
        if slices:
            tensor = torch.stack([_slice(part, number, slices) for number, part in enumerate(tensor)])
        return tensor

    @torch.no_grad()
    def zeroed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the parameter with zeros in the removed rows and columns: same function, original shape."""
        if name not in self.gone:
            return tensor
        tensor = tensor.clone()
        for (expert, dim), left in self.gone[name].items():
            (tensor if expert is None else tensor[expert]).index_fill_(dim, left.to(tensor.device), 0)
        return tensor

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape that the parameter has afterwards."""
        sizes = list(shape)
        lost: dict[int, int] = {}
        for (expert, dim), left in self.gone.get(name, {}).items():
            lost[dim + (expert is not None)] = len(left)
        for dim, count in lost.items():
            sizes[dim] -= count
        return tuple(sizes)


def cut(sets: Iterable[Coupled], removed: Iterable[torch.Tensor]) -> Cut:
    """Returns the removal of the units `removed` (int64) from each of `sets`."""
    made = Cut()
    for one, units_U in zip(sets, removed, strict=True):
        kept = one.units - len(units_U)
        for path, factors in one.attributes.items():
            made.numbers.setdefault(path, {}).update({name: size * kept for name, size in factors.items()})
        if not len(units_U):
            continue
        for member in one.members:
            places = made.gone.setdefault(member.tensor, {})
            place = (member.expert, member.dim)
            left = member.index_UCF[units_U].flatten()
            places[place] = torch.cat([places[place], left]) if place in places else left
    return made


@dataclass(frozen=True, slots=True)
class Outcome:
    """Configuration, structure and report of a pruned model."""

    config: dict[str, Any]
    """config.json."""
    structure: Structure
    """Empty if the configuration alone describes the model."""


def describe(
    source: ModelSource,
    model: PreTrainedModel,
    sets: list[Coupled],
    removed: list[torch.Tensor],
    made: Cut,
    stock: bool,
) -> Outcome:
    """Returns the configuration of the pruned model, and the structure where no configuration can express it.

    Args:
        source: where the model comes from; its config.json is changed as little as possible.
        model: its skeleton, as it is before the cut.
        sets: the coupled structures.
        removed: units that each of them loses.
        made: `cut(sets, removed)`.
        stock: whether the configuration is to express the widths; where it cannot, a structure does.

    Raises:
        MethodError: hidden channels leave, and the configuration cannot express that.
    """
    wanted = {name: made.shape(name, tuple(tensor.shape)) for name, tensor in model.named_parameters()}
    numbers = earlier_numbers(source, model)
    for path, values in made.numbers.items():
        numbers[path] = numbers.get(path, {}) | values
    if stock:
        raw = _stock_config(source, sets, removed)
        try:
            implied = skeleton.build(configured(source, raw))
        except ModelError:  # an architecture whose widths depend on each other
            implied = None
        if implied is not None and not difference(implied, wanted, numbers):
            return Outcome(raw, Structure())
    if any(one.kind == "hidden" and len(lost) for one, lost in zip(sets, removed, strict=True)):
        raise MethodError(
            f"the configuration of {source.config.model_type!r} cannot express fewer hidden channels",
            allowed="architectures that name hidden size and head size apart",
            do="Prune other units: hidden=false",
        )
    implied = skeleton.build(copy.deepcopy(source.config))
    return Outcome(dict(source.raw_config), difference(implied, wanted, numbers))


def earlier_numbers(source: ModelSource, model: PreTrainedModel) -> dict[str, dict[str, int]]:
    """Returns the numbers of the modules that an earlier structure of `source` has set on `model`."""
    found: dict[str, dict[str, int]] = {}
    for path in (source.structure or {}).get("attributes", {}):
        have = {name: get_attribute(model.get_submodule(path), name) for name in sorted(ATTRIBUTES)}
        found[path] = {name: value for name, value in have.items() if value is not None}
    return found


def _stock_config(source: ModelSource, sets: list[Coupled], removed: list[torch.Tensor]) -> dict[str, Any]:
    """config.json with the widths that all layers have, if they have one."""
    raw = dict(source.raw_config)
    names = type(source.config).attribute_map
    for one, lost in zip(sets, removed, strict=True):
        if not len(lost):
            continue
        # Falcon derives head_dim from other keys; stating it would be an error
        constants = {key: value for key, value in one.constants.items() if not _is_derived(source.config, key)}
        values = {key: size * (one.units - len(lost)) for key, size in one.config.items()} | constants
        raw |= {names.get(key, key): value for key, value in values.items()}
    return raw


def _is_derived(config: PreTrainedConfig, key: str) -> bool:
    """Whether the configuration derives this key from others and does not accept it as an argument."""
    attribute = inspect.getattr_static(type(config), key, None)
    return isinstance(attribute, property) and attribute.fset is None


def configured(source: ModelSource, raw: Mapping[str, Any]) -> PreTrainedConfig:
    """Returns the configuration object of a changed config.json; ModelError when its class accepts no such widths."""
    with translated(f"a {source.config.model_type!r} of the new widths has no valid configuration"):
        return type(source.config).from_dict({key: value for key, value in raw.items() if key != "quantization_config"})


def _others(left: torch.Tensor, length: int) -> torch.Tensor:
    stays = torch.ones(length, dtype=torch.bool)
    stays[left] = False
    return stays.nonzero()[:, 0]


def _slice(part: torch.Tensor, number: int, slices: Mapping[Place, torch.Tensor]) -> torch.Tensor:
    for (expert, dim), left in slices.items():
        if expert == number:
            part = part.index_select(dim, _others(left, part.shape[dim]))
    return part
