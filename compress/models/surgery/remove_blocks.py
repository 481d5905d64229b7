"""Removes whole blocks from a model: renames those that stay and writes the new configuration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from compress.errors import MethodError
from compress.models import skeleton
from compress.models.structure import difference
from compress.models.surgery.remove_units import Outcome, configured, earlier_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compress.models.source import ModelSource

_PER_BLOCK = ("layer_types", "mlp_layer_types", "no_rope_layers")
"""Lists of the configuration with one entry per block."""
_NUMBERS_OF_BLOCKS = ("mlp_only_layers",)
"""Lists of the configuration that name blocks."""


def renaming(block_names: list[str], gone: Sequence[int]) -> Callable[[str], str]:
    """Returns the function from a name inside a block that stays, or outside all blocks, to its name afterwards."""
    stay = [index for index in range(len(block_names)) if index not in gone]
    prefixes = {f"{block_names[old]}.": f"{block_names[new]}." for new, old in enumerate(stay)}

    def renamed(name: str) -> str:
        for old, new in prefixes.items():
            if f"{name}.".startswith(old):
                return new.removesuffix(".") + name[len(old) - 1 :]
        return name

    return renamed


def describe(source: ModelSource, model: PreTrainedModel, block_names: list[str], gone: Sequence[int]) -> Outcome:
    """Returns the configuration of `source` without the blocks `gone`, and the structure that is left to say.

    Raises:
        MethodError: blocks of this architecture depend on their number in a way that no configuration can express.
    """
    depth = len(block_names)
    stay = [index for index in range(depth) if index not in gone]
    raw, names = dict(source.raw_config), type(source.config).attribute_map
    raw[names.get("num_hidden_layers", "num_hidden_layers")] = len(stay)
    for key in _PER_BLOCK:
        values = getattr(source.config, key, None)
        if isinstance(values, list) and len(values) == depth:
            raw[key] = [values[index] for index in stay]
    for key in _NUMBERS_OF_BLOCKS:
        values = getattr(source.config, key, None)
        if isinstance(values, list):
            raw[key] = [stay.index(index) for index in values if index in stay]
    implied = skeleton.build(configured(source, raw))
    lost = tuple(f"{block_names[index]}." for index in gone)
    renamed = renaming(block_names, gone)
    wanted = {renamed(n): tuple(p.shape) for n, p in model.named_parameters() if not n.startswith(lost)}
    # a skeleton whose weights have been read shows tied parameters under both names
    tied = model.all_tied_weights_keys.keys()
    have = {name for name, _ in implied.named_parameters()} - tied
    same = have == wanted.keys() - tied and all(
        _alike(model.get_submodule(block_names[old]), implied.get_submodule(block_names[new]))
        for new, old in enumerate(stay)
    )
    if not same:
        raise MethodError(
            f"blocks of {source.config.model_type!r} depend on their number; config.json cannot list those kept",
            do="Prune widths: units=width",
        )
    numbers = {renamed(p): v for p, v in earlier_numbers(source, model).items() if not f"{p}.".startswith(lost)}
    return Outcome(raw, difference(implied, wanted, numbers))


def _alike(before: nn.Module, after: nn.Module) -> bool:
    """Whether two blocks compute the same: all their settings are equal, but for widths and their number."""
    others = dict(after.named_modules())
    return all(
        path in others and type(others[path]) is type(module) and _settings(module) == _settings(others[path])
        for path, module in before.named_modules()
    )


def _settings(module: nn.Module) -> dict[str, Any]:
    left = {"layer_idx", "training", "in_features", "out_features", "nf", "nx"}
    from compress.models.structure import ATTRIBUTES

    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None) and name not in left | ATTRIBUTES
    }
