"""ModelSource: a checked Hugging Face folder whose tensors are read one by one, and only when asked for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ModelError
from compress.format.manifest import QUANT_METHOD
from compress.format.scheme import Scheme
from compress.json_files import read_object
from compress.models.locate import locate
from compress.models.safetensors_header import TensorEntry
from compress.models.shards import list_tensors
from compress.models.tensor_files import TensorFiles, bytes_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from compress.format.packed import PackedTensor

_AUXILIARY = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json", "merges.txt",
    "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "vocab.json", "vocab.txt",
)  # fmt: skip
_DAMAGED = "Download the model again"
_PROBES, _PROBE_BYTES = 16, 4096  # of every tensor the fingerprint sees 16 stretches of 4 KiB


class ModelSource(TensorFiles):
    """A model on disk. Make one with `open`; nothing but headers is read until `read`."""

    def __init__(self, path: Path, name: str, config: PreTrainedConfig, tensors: Mapping[str, TensorEntry]):
        super().__init__(path, name, tensors)
        self.config = config

    @classmethod
    def open(cls, model: str | Path, *, revision: str | None = None) -> ModelSource:
        """Returns the checked model: `atlas`, a local folder, or a hub id at `revision`.

        Raises:
            ModelError: anything that makes the model unusable, named with its cure.
        """
        path = locate(model, revision)
        # a local folder goes by its own name: what is written about a model must not depend on where it lay
        name = path.resolve().name if Path(model).expanduser() == path else str(model)
        config, tensors = _config(path), list_tensors(path)
        if getattr(config, "quantization_config", None) is None:
            return cls(path, name, config, tensors)
        from compress.format.reader import open_checkpoint
        from compress.models.packed_source import OwnSource

        checkpoint = open_checkpoint(path)
        del config.quantization_config
        return OwnSource(name, config, checkpoint, tensors)

    @property
    def unpacked(self) -> frozenset[str]:
        """Names of the tensors that are packed on disk: none, but for a checkpoint of ours."""
        return frozenset()

    @property
    def structure(self) -> Mapping[str, Any] | None:
        """What of the model has another shape than its config.json says: nothing, but for a checkpoint of ours."""
        return None

    def part(self, name: str) -> PackedTensor | None:
        """Returns the linear `name` as it is packed on disk, or None when it is dense."""
        return None

    def entry(self, name: str) -> Mapping[str, Any] | None:
        """Returns what the manifest says of the packed linear `name`, or None when it is dense; nothing is read."""
        return None

    def scheme(self, name: str) -> Scheme | None:
        """Returns how the linear `name` is packed on disk, or None when it is dense; nothing is read."""
        found = self.entry(name)
        return None if found is None else Scheme.from_dict(found["scheme"])

    @property
    def parameters(self) -> int:
        """Numbers that the model computes with; of a packed linear, those of the weight that it means."""
        return sum(math.prod(entry.shape) for entry in self.tensors.values())

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.end - entry.start for entry in self.tensors.values())

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the configuration and, for every tensor, name, dtype, shape and samples of its bytes.

        Names of files, sharding and times do not enter: the same model gives the same value anywhere.
        """
        digest = hashlib.sha256(json.dumps(self.raw_config, sort_keys=True).encode())
        for name, entry in sorted(self.tensors.items()):
            digest.update(json.dumps([name, entry.dtype, entry.shape]).encode())
            for start, end in _probes(entry.end - entry.start):
                digest.update(bytes_of(self.read_bytes(entry, entry.start + start, entry.start + end)))
        return digest.hexdigest()

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """config.json as it stands in the folder."""
        return read_object(self.path / "config.json", error=ModelError, do=_DAMAGED)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Returns the model's tokenizer; ModelError when the folder has none that loads without remote code."""
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"{self.name} has no tokenizer that can be loaded: {first_line}",
                do="Save the tokenizer into the model's folder with tokenizer.save_pretrained",
            ) from error

    def auxiliary_files(self) -> list[Path]:
        """Returns the tokenizer, generation and chat template files that belong beside the weights, by name."""
        return [self.path / name for name in _AUXILIARY if (self.path / name).is_file()]


def _probes(size: int) -> Iterator[tuple[int, int]]:
    """Stretches of a tensor of `size` bytes that the fingerprint reads: evenly spread, first and last included."""
    if size <= _PROBES * _PROBE_BYTES:
        yield 0, size
        return
    for place in range(_PROBES):
        start = (size - _PROBE_BYTES) * place // (_PROBES - 1)
        yield start, start + _PROBE_BYTES


def _config(path: Path) -> PreTrainedConfig:
    """The model's configuration, refused when it is quantised already or of an unknown architecture."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if not (path / "config.json").is_file():
        raise ModelError(f"{path} holds no config.json", do="Give the folder of a Hugging Face model")
    raw = read_object(path / "config.json", error=ModelError, do=_DAMAGED)
    quantization = raw.get("quantization_config") or raw.get("compression_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
        if method != QUANT_METHOD:
            raise ModelError(
                f"{path} is already quantised ({method})", do="Give the model in float32, bfloat16 or float16"
            )
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        kind = raw.get("model_type")
        if kind is None:
            raise ModelError("config.json names no model_type", do="Give the folder of a Hugging Face model") from error
        first_line = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"the architecture {kind!r} cannot be opened: {first_line}",
            allowed="architectures that the installed transformers knows by itself (remote code is never run)",
        ) from error
