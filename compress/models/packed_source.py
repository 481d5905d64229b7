"""Shows the packed linears of one of our checkpoints as the dense weights that they decode to, for the next run.

Everything that runs the model sees dense weights; a stage that solves composite linears asks for the packed ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from compress.format import layouts, naming
from compress.format.packed import PackedTensor
from compress.format.reader import Checkpoint
from compress.format.scheme import Scheme
from compress.models.folder.safetensors_header import TensorEntry


class PackedParts(Protocol):
    """Linears by name, in the form that they are packed in."""

    def scheme(self, name: str) -> Scheme | None:
        """Returns the scheme of the linear `name`, or None when it is dense; no codes are read."""

    def part(self, name: str) -> PackedTensor | None:
        """Returns the linear `name` as it is packed, or None when it is dense."""

    def entry(self, name: str) -> Mapping[str, Any] | None:
        """Returns the manifest's entry of the linear `name`, or None when it is dense; no codes are read."""


class PackedLinears:
    """The packed linears of a checkpoint, by the parameters of the model that they take the place of."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self._linears = _parameters(checkpoint.manifest["tensors"])

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the parameters that are packed on disk."""
        return frozenset(self._linears)

    @property
    def structure(self) -> Mapping[str, Any] | None:
        """The manifest's `structure`: what has another shape than config.json says."""
        structure: Mapping[str, Any] | None = self.checkpoint.manifest.get("structure")
        return structure

    @property
    def kv_scales(self) -> Mapping[str, tuple[float, float]]:
        """The manifest's scales of keys and values, by attention module."""
        scales: Mapping[str, tuple[float, float]] = self.checkpoint.manifest.get("kv_cache", {}).get("scales", {})
        return scales

    @property
    def rounds_inputs(self) -> bool:
        """Whether a linear rounds its inputs: its scheme has `activations`."""
        entries = self.checkpoint.manifest["tensors"].values()
        return any("activations" in entry["scheme"]["options"] for entry in entries)

    @property
    def size_bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard["size_bytes"] for shard in self.checkpoint.manifest["shards"])

    def shown(self, tensors: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
        """Returns the model's tensors: those of the files without planes and guards, and one for each packed weight."""
        dense = {name: tensors[name] for name in self.checkpoint.dense_names}
        return dense | {name: self._entry(linears) for name, linears in self._linears.items()}

    def entry(self, linear: str) -> Mapping[str, Any] | None:
        """Returns the manifest's entry of a packed linear, or None when it is dense."""
        entry: Mapping[str, Any] | None = self.checkpoint.manifest["tensors"].get(linear)
        return entry

    def part(self, linear: str) -> PackedTensor | None:
        """Returns the linear as it is packed, or None when it is dense."""
        return None if self.entry(linear) is None else self.checkpoint.packed(linear)

    def read(self, parameter: str) -> torch.Tensor:
        """Returns a packed weight as float32 [N, K]; the experts of a projection as [E, N, K]."""
        linears = self._linears[parameter]
        weights = [layouts.unpack(self.checkpoint.packed(linear)) for linear in linears]
        return torch.stack(weights) if naming.parse_expert(linears[0]) else weights[0]

    def _entry(self, linears: list[str]) -> TensorEntry:
        """Returns what a safetensors file with the decoded weight would say of it."""
        shape: tuple[int, ...] = tuple(self.checkpoint.manifest["tensors"][linears[0]]["shape"])
        if naming.parse_expert(linears[0]):
            shape = (len(linears), *shape)
        return TensorEntry(file="", dtype="F32", shape=shape, start=0, end=4 * math.prod(shape))


def _parameters(entries: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the packed linears of each parameter: one, or the experts of a projection in their order."""
    parameters: dict[str, list[str]] = {}
    for name in entries:
        parameters.setdefault(naming.parameter(name), []).append(name)
    for linears in parameters.values():
        linears.sort(key=lambda name: int(name.rpartition(".")[2]) if naming.parse_expert(name) else 0)
    return parameters
