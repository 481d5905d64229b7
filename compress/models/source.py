"""ModelSource: a checked model folder whose tensors are read one by one, and only when they are needed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import ModelError
from compress.format import manifest
from compress.format.scheme import Scheme
from compress.models.folder import extra_files, model_config
from compress.models.folder.tensor_files import TensorFiles, bytes_of
from compress.models.folder.tokenizer import load_tokenizer
from compress.models.foreign.formats import without_description
from compress.models.foreign.weights import size_bytes
from compress.models.open_source import OpenedFolder, open_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compress.format.packed import PackedTensor

_PROBES, _PROBE_BYTES = 16, 4096  # the fingerprint reads 16 stretches of 4 KiB of every tensor


class ModelSource(TensorFiles):
    """A model on disk, dense or packed by this package. Make one with `open`; only headers are read until `read`."""

    def __init__(self, opened: OpenedFolder, *, keep_codes: bool = False):
        super().__init__(opened.path, opened.name, opened.tensors)
        self.config, self.warnings, self._packed = opened.config, opened.warnings, opened.packed
        self.foreign = opened.foreign
        """The weights that another program quantised, or None."""
        self.keeps_codes = keep_codes
        """Whether a stage that packs is to carry their codes over."""
        self._load_tokenizer = partial(load_tokenizer, opened.path, opened.name)

    @classmethod
    def open(cls, model: str | Path, *, revision: str | None = None, keep_codes: bool = False) -> ModelSource:
        """Returns the checked model: `atlas`, a local folder, or a hub id at `revision`.

        Args:
            model: name, folder or id.
            revision: revision of a hub id.
            keep_codes: see `keeps_codes`.

        Raises:
            ModelError, FormatError: the model cannot be used; the cause and the cure are named.
        """
        opened = open_folder(model, revision)
        if keep_codes and opened.foreign is None:
            raise ModelError(
                f"--keep-codes with {opened.name}, whose weights no other program quantised",
                do="Leave --keep-codes out",
            )
        return cls(opened, keep_codes=keep_codes)

    @property
    def unpacked(self) -> frozenset[str]:
        """Names of the parameters that are packed on disk, in one of our checkpoints; empty for any other model."""
        return frozenset() if self._packed is None else self._packed.parameters

    @property
    def decoded(self) -> frozenset[str]:
        """Names of the tensors that are decoded when they are read: packed by this package or quantised by another."""
        return self.unpacked if self.foreign is None else self.foreign.parameters

    @property
    def structure(self) -> Mapping[str, Any] | None:
        """What has another shape than config.json says, as the manifest describes it; None for most models."""
        return None if self._packed is None else self._packed.structure

    def part(self, name: str) -> PackedTensor | None:
        """Returns the linear `name` as it is packed on disk, or None when it is dense."""
        return None if self._packed is None else self._packed.part(name)

    def entry(self, name: str) -> Mapping[str, Any] | None:
        """Returns the manifest's entry of the packed linear `name`, or None when it is dense; no plane is read."""
        return None if self._packed is None else self._packed.entry(name)

    def scheme(self, name: str) -> Scheme | None:
        """Returns the scheme of the packed linear `name`, or None when it is dense; no plane is read."""
        entry = self.entry(name)
        return None if entry is None else Scheme.from_dict(entry["scheme"])

    @property
    def kv_scales(self) -> Mapping[str, tuple[float, float]]:
        """The scales of keys and values by attention module, where they are rounded."""
        return {} if self._packed is None else self._packed.kv_scales

    @property
    def rounds_inputs(self) -> bool:
        """Whether a packed linear rounds its inputs."""
        return self._packed is not None and self._packed.rounds_inputs

    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor in its stored dtype and shape; one of `decoded` in float32."""
        if self._packed is not None and name in self._packed.parameters:
            return self._packed.read(name)
        if self.foreign is not None and name in self.foreign.parameters:
            return self.foreign.read(name)
        return super().read(name)

    def read_slice(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Returns rows `start` to `stop` of a tensor; of a weight that another program quantised decoded."""
        if self.foreign is not None and name in self.foreign.parameters:
            return self.foreign.read_rows(name, start, stop)
        return super().read_slice(name, start, stop)

    def read_rows(self, name: str, rows: list[int]) -> torch.Tensor:
        """Returns the named rows of a matrix in the order given; of a weight that another program quantised decoded."""
        if self.foreign is not None and name in self.foreign.parameters:
            return torch.cat([self.foreign.read_rows(name, row, row + 1) for row in rows])
        return super().read_rows(name, rows)

    @property
    def parameters(self) -> int:
        """Parameter count. A packed linear counts as the dense weight it decodes to."""
        return sum(math.prod(entry.shape) for entry in self.tensors.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors on disk; of one of our checkpoints those of its shards."""
        return self._packed.size_bytes if self._packed is not None else size_bytes(self._files.tensors)

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all tensors as they are stored, but of those that another program quantised in float32."""
        return self.size_bytes if self.foreign is None else size_bytes(self.tensors)

    @property
    def _files(self) -> TensorFiles:
        """The tensors as they are stored."""
        return self if self.foreign is None else self.foreign.files

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the configuration and, for every tensor, its name, dtype, shape and samples of its bytes.

        File names, sharding and times are not part of it: the same model has the same fingerprint everywhere. Of one
        of our checkpoints it is the sha256 of the manifest, which holds the sha256 of every shard.
        """
        if self._packed is not None:
            return manifest.fingerprint(self.path)
        described = [] if self.foreign is None else [self.foreign.settings]
        digest = hashlib.sha256(json.dumps(self.raw_config, sort_keys=True).encode())
        digest.update(b"".join(json.dumps(settings, sort_keys=True).encode() for settings in described))
        for name, entry in sorted(self._files.tensors.items()):
            digest.update(json.dumps([name, entry.dtype, entry.shape]).encode())
            for start, end in _probes(entry.end - entry.start):
                digest.update(bytes_of(self._files.read_bytes(entry, entry.start + start, entry.start + end)))
        return digest.hexdigest()

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """The content of config.json without what describes a quantisation: what the decoded model would have."""
        raw = model_config.read_raw(self.path)
        dense = self._packed is None and self.foreign is None
        return raw if dense else without_description(raw)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Returns the model's tokenizer; ModelError when the folder has none that loads without remote code."""
        return self._load_tokenizer()

    @contextmanager
    def one_tokenizer(self) -> Iterator[None]:
        """While open, `tokenizer` loads the tokenizer once and returns the same object; then it is freed.

        Loading one takes 0.3 s for 49,152 tokens, keeping it 45 MB.
        """
        load = self._load_tokenizer
        self._load_tokenizer = cache(load)  # type: ignore[assignment]
        try:
            yield
        finally:
            self._load_tokenizer = load

    def auxiliary_files(self) -> dict[str, Path]:
        """Returns the files that belong beside the weights, by their names relative to the folder."""
        return extra_files.list_extra_files(self.path)


def _probes(size: int) -> Iterator[tuple[int, int]]:
    """Yields the stretches of a tensor of `size` bytes that the fingerprint reads: evenly spread, with both ends."""
    if size <= _PROBES * _PROBE_BYTES:
        yield 0, size
        return
    for place in range(_PROBES):
        start = (size - _PROBE_BYTES) * place // (_PROBES - 1)
        yield start, start + _PROBE_BYTES
