"""Holds the shapes and attributes of a model that differ from its config.json, as plain data.

A pruned layer is narrower than its neighbours, which no configuration can express. The manifest then lists the shapes
of the parameters that differ, and the numeric attributes of modules (head counts, splits of fused projections).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from compress.errors import FormatError
from compress.models.linears import is_conv1d

VERSION = 1
ATTRIBUTES = frozenset({
    "num_heads", "num_attention_heads", "num_key_value_heads", "num_kv_heads", "num_key_value_groups", "split_size",
    "embed_dim", "kv_dim", "intermediate_size", "intermediate_dim",
    "config.num_attention_heads", "config.num_key_value_heads",
})  # fmt: skip
"""Numbers of modules that a structure may set; with `config.` in front in a copy of the configuration they hold."""


@dataclass(frozen=True, slots=True)
class Structure:
    """Shapes and numbers that differ from those implied by the configuration."""

    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Parameter, by its dotted name in the model -> its shape."""
    attributes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Module, by its dotted path -> the numbers that are set on it."""

    def __bool__(self) -> bool:
        return bool(self.tensors or self.attributes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form of the manifest."""
        return {
            "version": VERSION,
            "tensors": {name: list(shape) for name, shape in self.tensors.items()},
            "attributes": {path: dict(values) for path, values in self.attributes.items()},
        }

    @classmethod
    def from_dict(cls, data: object) -> Structure:
        """Reads the JSON form; raises FormatError if it is malformed, newer, or sets an unknown attribute."""
        if not isinstance(data, Mapping) or not {"version", "tensors", "attributes"} >= set(data):
            raise FormatError("`structure` is not an object of version, tensors and attributes")
        if data.get("version") != VERSION:
            raise FormatError(
                f"`structure` has version {data.get('version')!r}", allowed=str(VERSION), do="Update the package"
            )
        tensors, attributes = data.get("tensors", {}), data.get("attributes", {})
        if not isinstance(tensors, Mapping) or not isinstance(attributes, Mapping):
            raise FormatError("`structure` is not an object of version, tensors and attributes")
        for name, shape in tensors.items():
            if not isinstance(shape, (list, tuple)) or not shape or not all(_is_size(size) for size in shape):
                raise FormatError(f"its shape is {shape!r}", allowed="a list of sizes from 1 on", layer=name)
        for path, values in attributes.items():
            if not isinstance(values, Mapping):
                raise FormatError(f"its attributes are {values!r}", allowed="an object", layer=path)
            for name, value in values.items():
                if name not in ATTRIBUTES:
                    raise FormatError(
                        f"`structure` sets the attribute {name!r}", allowed=", ".join(sorted(ATTRIBUTES)), layer=path
                    )
                if not _is_size(value):
                    raise FormatError(f"`structure` sets {name} to {value!r}", allowed="a number from 1 on", layer=path)
        return cls({n: tuple(s) for n, s in tensors.items()}, {p: dict(v) for p, v in attributes.items()})


def apply(model: nn.Module, structure: Structure | Mapping[str, Any]) -> None:
    """Gives the parameters of a model on meta the shapes of `structure` and sets its numbers, in place.

    Raises:
        FormatError: a module, parameter or attribute that the model does not have; a shape larger than the model's or
            that its other parameters do not fit; a module whose width nothing else would know of.
    """
    if not isinstance(structure, Structure):
        structure = Structure.from_dict(structure)
    touched = {name: _resize(model, name, shape) for name, shape in structure.tensors.items()}
    for name, module in touched.items():
        _settle(module, name)
    for path, values in structure.attributes.items():
        module = _module(model, path)
        for name, value in values.items():
            set_attribute(module, name, value, path)


def set_attribute(module: nn.Module, name: str, value: int, path: str = "") -> None:
    """Sets one of `ATTRIBUTES` on the module; FormatError when it has none of that name."""
    if get_attribute(module, name) is None:
        raise FormatError(f"a {type(module).__name__} has no attribute {name!r}", layer=path)
    if name.startswith("config."):
        config = copy.copy(module.config)  # other modules share the original
        setattr(config, name.removeprefix("config."), value)
        module.config = config  # type: ignore[assignment]
    else:
        vars(module)[name] = value


def get_attribute(module: nn.Module, name: str) -> int | None:
    """Returns one of `ATTRIBUTES` of the module, or None when it has none of that name."""
    holder = getattr(module, "config", None) if name.startswith("config.") else module
    value = getattr(holder, name.removeprefix("config."), None)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def difference(implied: nn.Module, wanted: Mapping[str, tuple[int, ...]], numbers: Mapping[str, Mapping[str, int]]) -> (
    Structure
):  # fmt: skip
    """Returns the structure that turns the skeleton `implied` into one of the `wanted` shapes and `numbers`.

    `wanted` must name all parameters of the model.
    """
    have = {name: tuple(tensor.shape) for name, tensor in implied.named_parameters()}
    assert have.keys() <= wanted.keys(), f"no shape is given for {sorted(have.keys() - wanted.keys())[:3]}"
    tensors = {name: tuple(wanted[name]) for name in have if have[name] != tuple(wanted[name])}
    attributes = {}
    for path, values in numbers.items():
        module = implied.get_submodule(path)
        if changed := {name: value for name, value in values.items() if get_attribute(module, name) != value}:
            attributes[path] = changed
    return Structure(tensors, attributes)


def _resize(model: nn.Module, name: str, shape: tuple[int, ...]) -> nn.Module:
    path, _, key = name.rpartition(".")
    module = _module(model, path)
    parameter = module._parameters.get(key)
    if parameter is None:
        raise FormatError(f"a {type(module).__name__} has no parameter {key!r}", layer=path)
    have = tuple(parameter.shape)
    if len(have) != len(shape) or any(new > old for new, old in zip(shape, have, strict=True)):
        raise FormatError(f"`structure` gives it the shape {list(shape)}", allowed=f"up to {list(have)}", layer=name)
    # other modules keep a width of their own that nothing here would set
    if not (len(shape) == 1 or isinstance(module, (nn.Linear, nn.Embedding)) or is_conv1d(module) or len(shape) == 3):
        raise FormatError(f"a {type(module).__name__} cannot be resized", layer=name)
    empty = torch.empty(shape, dtype=parameter.dtype, device="meta")
    module._parameters[key] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    return module


def _settle(module: nn.Module, name: str) -> None:
    """Gives the module the widths of its parameters; FormatError when these do not fit together."""
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif is_conv1d(module) and weight is not None:
        vars(module).update(nx=weight.shape[0], nf=weight.shape[1])
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.LayerNorm) and weight is not None:
        module.normalized_shape = tuple(weight.shape)
    if weight is not None and bias is not None:
        rows = weight.shape[-1] if is_conv1d(module) else weight.shape[0]
        if bias.shape != (rows,):
            raise FormatError(f"`structure` gives a bias of {bias.shape[0]} for a weight of {rows} outputs", layer=name)


def _module(model: nn.Module, path: str) -> nn.Module:
    """The module at `path`, also in the base model loaded without its head."""
    prefix = getattr(model, "base_model_prefix", "") + "."
    for candidate in (path, path.removeprefix(prefix)):
        try:
            return model.get_submodule(candidate)
        except AttributeError:
            continue
    raise FormatError(f"{type(model).__name__} has no such module", do="Is config.json that of this model?", layer=path)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
