"""Puts packed layers into a model skeleton before its weights are loaded, and checks that none is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compress.errors import FormatError
from compress.format import layouts, naming
from compress.format.scheme import Scheme
from compress.kernels import select
from compress.models.linears import is_conv1d, is_linear
from compress.runtime import experts
from compress.runtime.linear import AdaptableLinear, PackedLinear

KEEP_PREPARED_BYTES = 1 << 30
"""Decoded weights are kept after the first use by default if they take at most this many bytes in the whole model. A
form that a kernel prepares without decoding is always kept: making it takes about a hundred times as long as a call."""


def install(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Replaces the linears named in `tensors` ({name: {scheme, shape, bias}}) by empty packed ones, in place.

    Raises FormatError for a name, shape or bias that the model does not have, and for experts it cannot replace.
    """
    _refuse_tied_head(model, tensors)
    stacks: dict[str, dict[str, dict[int, PackedLinear]]] = {}
    for name, entry in tensors.items():
        if parsed := naming.parse_expert(name):
            path, projection, index = parsed
            stacks.setdefault(path, {}).setdefault(projection, {})[index] = _empty_layer(PackedLinear, model, entry)
        else:
            layer, path = _empty_layer(AdaptableLinear, model, entry), _path(model, name)
            _refuse_mismatch(model.get_submodule(path), layer, name)
            model.set_submodule(path, layer)
    naming.check_experts(tensors)
    for name, projections in stacks.items():
        lists = {key: [layers[index] for index in sorted(layers)] for key, layers in projections.items()}
        path = _path(model, name)
        experts.pack_experts(model.get_submodule(path), lists, path)


def check_loaded(model: nn.Module) -> None:
    """Raises FormatError unless every plane and bias came from the checkpoint and its layout accepts it.

    transformers leaves uninitialised memory where a checkpoint lacks a tensor, and marks the tensors that it filled.
    """
    for name, module in model.named_modules():
        if isinstance(module, experts.PackedExperts):
            experts.check_loaded(module, name)
    for name, layer in packed_layers(model).items():
        for part, tensor in [*layer.named_buffers(recurse=False), *layer.named_parameters(recurse=False)]:
            on_disk = tensor.device.type == "meta"
            if not on_disk and not getattr(tensor, "_is_hf_initialized", False):
                raise FormatError(
                    f"{part!r} is missing from the checkpoint", do="Copy or compress it again", layer=name
                )
        device = layer.get_buffer("weight").device
        if device.type != "meta":
            layouts.check(layer.packed, layer=name)
            select.require(layer.scheme, (layer.out_features, layer.in_features), device)


def packed_layers(model: nn.Module) -> dict[str, PackedLinear]:
    """Returns the packed layers of a model by path."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}


def keep_prepared(model: nn.Module, keep: bool | None = None) -> None:
    """Sets whether packed layers keep the kernel's form of their planes after the first use.

    None: keep it if it takes about the bytes of the planes, and keep decoded weights if all of them take at most 1 GiB.
    """
    layers = packed_layers(model).values()
    packed = {id(layer) for layer in layers if _stays_packed(layer)}
    dtype: torch.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    decoded = sum(layer.out_features * layer.in_features for layer in layers if id(layer) not in packed)
    for layer in layers:
        small = id(layer) in packed or decoded * dtype.itemsize <= KEEP_PREPARED_BYTES
        layer.keep_prepared = small if keep is None else keep
        layer._forget()


def _stays_packed(layer: PackedLinear) -> bool:
    answer = select.select(layer.scheme, (layer.out_features, layer.in_features), layer.get_buffer("weight").device)
    return isinstance(answer, select.Accepted) and answer.kernel in select.COMPACT


def _empty_layer(kind: type[PackedLinear], model: nn.Module, entry: Mapping[str, Any]) -> PackedLinear:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    shape = (entry["shape"][0], entry["shape"][1])
    return kind(Scheme.from_dict(entry["scheme"]), shape, bias=entry["bias"], device="meta", dtype=dtype)


def _path(model: nn.Module, name: str) -> str:
    """Returns the path of the module, also in the base model loaded without its head."""
    prefix = getattr(model, "base_model_prefix", "") + "."
    for path in (name, name.removeprefix(prefix)):
        try:
            model.get_submodule(path)
        except AttributeError:
            continue
        return path
    raise FormatError(
        f"{type(model).__name__} has no such module", do="Check that config.json belongs to this model", layer=name
    )


def _refuse_mismatch(module: nn.Module, layer: PackedLinear, name: str) -> None:
    if not is_linear(module):
        raise FormatError(f"a {type(module).__name__} cannot be packed", allowed="Linear, Conv1D", layer=name)
    weight = module.get_parameter("weight")
    shape = tuple(weight.shape[::-1] if is_conv1d(module) else weight.shape)
    packed_shape = (layer.out_features, layer.in_features)
    if shape != packed_shape or (module.bias is None) != (layer.bias is None):
        raise FormatError(
            f"the model has a linear of shape {shape}, {'no ' if module.bias is None else ''}bias",
            allowed=f"{packed_shape}, {'no ' if layer.bias is None else ''}bias",
            layer=name,
        )


def _refuse_tied_head(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    for tied, master in getattr(model, "all_tied_weights_keys", {}).items():
        for name in (tied.removesuffix(".weight"), master.removesuffix(".weight")):
            if name in tensors:
                raise FormatError(
                    f"packed, though config.json ties {tied} to {master}", do="Leave it dense", layer=name
                )
