"""A checkpoint of ours as the source of another run: its packed linears are shown as the dense weights they mean.

Everything that runs the model sees plain weights; who solves a linear of several parts asks for its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from compress.format import layouts, manifest, naming
from compress.format.packed import PackedTensor
from compress.format.reader import Checkpoint
from compress.models.safetensors_header import TensorEntry
from compress.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class OwnSource(ModelSource):
    """A folder that `compress run` wrote and a stock transformers could not read."""

    def __init__(self, name: str, config: PreTrainedConfig, checkpoint: Checkpoint, tensors: Mapping[str, TensorEntry]):
        """`tensors` are all those of the files; planes and guards are left out, dense weights take their places."""
        self._checkpoint = checkpoint
        self._linears = _parameters(checkpoint.manifest["tensors"])
        dense = {key: tensors[key] for key in checkpoint.dense_names}
        shown = {key: self._entry_of(linears) for key, linears in self._linears.items()}
        super().__init__(checkpoint.folder, name, config, dense | shown)

    @property
    def unpacked(self) -> frozenset[str]:
        """Names of the tensors that are packed on disk."""
        return frozenset(self._linears)

    @property
    def size_bytes(self) -> int:
        """Bytes of the shards."""
        return sum(shard["size_bytes"] for shard in self._checkpoint.manifest["shards"])

    @property
    def structure(self) -> Mapping[str, Any] | None:
        """What of the model has another shape than its config.json says."""
        found: Mapping[str, Any] | None = self._checkpoint.manifest.get("structure")
        return found

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the manifest, which holds that of every shard."""
        return manifest.fingerprint(self.path)

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """config.json without what the packing added to it."""
        return {key: value for key, value in super().raw_config.items() if key != "quantization_config"}

    def part(self, name: str) -> PackedTensor | None:
        """Returns the linear `name` as it is packed, or None when it is dense."""
        return None if self.entry(name) is None else self._checkpoint.packed(name)

    def entry(self, name: str) -> Mapping[str, Any] | None:
        """Returns what the manifest says of the packed linear `name`, or None when it is dense; nothing is read."""
        found: Mapping[str, Any] | None = self._checkpoint.manifest["tensors"].get(name)
        return found

    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor; a packed weight as float32 [N, K], the experts of a projection as [E, N, K]."""
        if name not in self._linears:
            return super().read(name)
        weights = [layouts.unpack(self._checkpoint.packed(linear)) for linear in self._linears[name]]
        return torch.stack(weights) if naming.parse_expert(self._linears[name][0]) else weights[0]

    def _entry_of(self, linears: list[str]) -> TensorEntry:
        shape: tuple[int, ...] = tuple(self._checkpoint.manifest["tensors"][linears[0]]["shape"])
        if naming.parse_expert(linears[0]):
            shape = (len(linears), *shape)
        size = 4
        for length in shape:
            size *= length
        return TensorEntry(file="", dtype="F32", shape=shape, start=0, end=size)


def _parameters(entries: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the parameter that each packed linear, or each projection of experts, takes the place of."""
    found: dict[str, list[str]] = {}
    for name in entries:
        if expert := naming.parse_expert(name):
            found.setdefault(naming.guard(*expert[:2]), []).append(name)
        else:
            found[f"{name}.weight"] = [name]
    for linears in found.values():
        linears.sort(key=lambda name: int(name.rpartition(".")[2]) if naming.parse_expert(name) else 0)
    return found
