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
from compress.runtime.embedding import PackedEmbedding, TiedHead, can_pack, refuse_resize
from compress.runtime.linear import AdaptableLinear, PackedLinear

KEEP_PREPARED_BYTES = 1 << 30
"""Decoded weights are kept after the first use by default if they take at most this many bytes in the whole model. A
form that a kernel prepares without decoding is always kept: making it takes about a hundred times as long as a call."""


def install(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Replaces the linears named in `tensors` ({name: {scheme, shape, bias}}) by empty packed ones, in place.

    A token embedding becomes a PackedEmbedding, and a head that is tied to it a TiedHead.

    Raises FormatError for a name, shape or bias that the model does not have, and for experts it cannot replace.
    """
    stacks: dict[str, dict[str, dict[int, PackedLinear]]] = {}
    for name, entry in tensors.items():
        if parsed := naming.parse_expert(name):
            path, projection, index = parsed
            stacks.setdefault(path, {}).setdefault(projection, {})[index] = _empty_layer(PackedLinear, model, entry)
        elif isinstance(model.get_submodule(path := _path(model, name)), nn.Embedding):
            _install_embedding(model, path, entry, name)
        else:
            _refuse_tied(model, name)
            layer = _empty_layer(AdaptableLinear, model, entry)
            _refuse_mismatch(model.get_submodule(path), layer, name)
            model.set_submodule(path, layer)
            if layer is _output(model):
                vars(model)["resize_token_embeddings"] = refuse_resize
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
    # an embedding that no head shares is never multiplied with
    layers = [layer for layer in packed_layers(model).values() if getattr(layer, "multiplies", True)]
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


def _install_embedding(model: nn.Module, path: str, entry: Mapping[str, Any], name: str) -> None:
    """Puts a PackedEmbedding into the place of an embedding, and a TiedHead into that of the head tied to it."""
    module, scheme = model.get_submodule(path), Scheme.from_dict(entry["scheme"])
    assert isinstance(module, nn.Embedding)
    if scheme.layout not in layouts.ROWS or scheme.outliers or entry["bias"]:
        raise FormatError(
            f"an embedding packed as {scheme.layout}",
            allowed=f"{', '.join(layouts.ROWS)} without outliers and bias",
            layer=name,
        )
    if not can_pack(module):
        raise FormatError(f"a {type(module).__name__} cannot be packed", allowed="Embedding", layer=name)
    if (shape := (module.num_embeddings, module.embedding_dim)) != tuple(entry["shape"]):
        raise FormatError(f"the model has an embedding of shape {shape}", allowed=f"{entry['shape']}", layer=name)
    embedding, head = PackedEmbedding(scheme, module, device="meta"), _output(model)
    ties = getattr(model, "all_tied_weights_keys", {})
    for tied in [tied for tied, master in ties.items() if master == f"{path}.weight"]:
        place = tied.removesuffix(".weight")
        if not isinstance(head, nn.Linear) or model.get_submodule(place) is not head:
            raise FormatError(f"an embedding that is tied to {tied}", allowed="one tied to the head alone", layer=name)
        model.set_submodule(place, TiedHead(embedding, head))
        del ties[tied]  # transformers would tie a weight that the head does not have
    _refuse_tied(model, name)
    model.set_submodule(path, embedding)
    vars(model)["resize_token_embeddings"] = refuse_resize


def _output(model: nn.Module) -> nn.Module | None:
    """Returns the output head, if the model has one."""
    find = getattr(model, "get_output_embeddings", None)
    return None if find is None else find()


def _refuse_tied(model: nn.Module, name: str) -> None:
    for tied, master in getattr(model, "all_tied_weights_keys", {}).items():
        if f"{name}.weight" in (tied, master):
            raise FormatError(f"packed, though config.json ties {tied} to {master}", do="Leave it dense", layer=name)
