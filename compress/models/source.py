"""ModelSource: a checked Hugging Face folder whose tensors are read one by one, and only when asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import ModelError
from compress.models.locate import locate
from compress.models.safetensors_header import TensorEntry
from compress.models.shards import list_tensors, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32,
    "I16": torch.int16, "I8": torch.int8, "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_AUXILIARY = (
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json", "merges.txt",
    "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    "vocab.json", "vocab.txt",
)  # fmt: skip
_PROBES, _PROBE_BYTES = 16, 4096  # of every tensor the fingerprint sees 16 stretches of 4 KiB


class ModelSource:
    """A model on disk. Make one with `open`; nothing but headers is read until `read`."""

    def __init__(self, path: Path, name: str, config: PreTrainedConfig, tensors: Mapping[str, TensorEntry]):
        self.path, self.name, self.config, self.tensors = path, name, config, tensors

    @classmethod
    def open(cls, model: str | Path, *, revision: str | None = None) -> ModelSource:
        """Returns the checked model: `atlas`, a local folder, or a hub id at `revision`.

        Raises:
            ModelError: anything that makes the model unusable, named with its cure.
        """
        path = locate(model, revision)
        # a local folder goes by its own name: what is written about a model must not depend on where it lay
        name = path.resolve().name if Path(model).expanduser() == path else str(model)
        return cls(path, name, _config(path), list_tensors(path))

    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor in its stored dtype and shape, read with plain file reads (no mapping stays behind)."""
        entry = self._entry(name)
        return self._read_bytes(entry, entry.start, entry.end).view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)

    def read_rows(self, name: str, rows: list[int]) -> torch.Tensor:
        """Returns the named rows of a matrix, in the order given and in the stored dtype, without reading the rest."""
        entry = self._entry(name)
        width = (entry.end - entry.start) // entry.shape[0]
        out = torch.empty(len(rows), width, dtype=torch.uint8)
        for place, row in enumerate(rows):
            start = entry.start + row * width
            out[place] = self._read_bytes(entry, start, start + width)
        return out.view(TORCH_DTYPES[entry.dtype]).reshape(len(rows), *entry.shape[1:])

    def read_slice(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Returns rows `start` to `stop` of a tensor in its stored dtype, without reading the rest."""
        entry = self._entry(name)
        width = (entry.end - entry.start) // entry.shape[0]
        data = self._read_bytes(entry, entry.start + start * width, entry.start + stop * width)
        return data.view(TORCH_DTYPES[entry.dtype]).reshape(stop - start, *entry.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the configuration and, for every tensor, name, dtype, shape and samples of its bytes.

        Names of files, sharding and times do not enter: the same model gives the same value anywhere.
        """
        digest = hashlib.sha256(json.dumps(self.raw_config, sort_keys=True).encode())
        for name, entry in sorted(self.tensors.items()):
            digest.update(json.dumps([name, entry.dtype, entry.shape]).encode())
            for start, end in _probes(entry.end - entry.start):
                digest.update(_view(self._read_bytes(entry, entry.start + start, entry.start + end)))
        return digest.hexdigest()

    @cached_property
    def raw_config(self) -> dict[str, Any]:
        """config.json as it stands in the folder."""
        return read_json(self.path / "config.json")

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

    def _entry(self, name: str) -> TensorEntry:
        if name not in self.tensors:
            raise ModelError(f"{self.name} has no tensor {name}", do="Check that all shards are there")
        return self.tensors[name]

    def _read_bytes(self, entry: TensorEntry, start: int, end: int) -> torch.Tensor:
        """Bytes `start` to `end` of the entry's file, uint8."""
        buffer = torch.empty(end - start, dtype=torch.uint8)
        view = _view(buffer)
        # opened anew each time: the loader's threads share no position, and a vanished file is noticed
        try:
            with (self.path / entry.file).open("rb", buffering=0) as file:
                file.seek(start)
                done = 0
                while done < len(view):
                    got = file.readinto(view[done:])
                    if not got:
                        raise ModelError(f"shard {entry.file} ended early", do="Download it again")
                    done += got
        except OSError as error:
            raise ModelError(f"shard {entry.file} cannot be read: {error.strerror or error}") from error
        return buffer


def _view(buffer: torch.Tensor) -> memoryview:
    """The bytes of a uint8 tensor, to be read or written in place."""
    array: Any = buffer.numpy()
    return memoryview(array)


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
    raw = read_json(path / "config.json")
    quantization = raw.get("quantization_config") or raw.get("compression_config")
    if quantization:
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
        if method == "compress":
            raise ModelError(
                f"{path} is already a compressed checkpoint of this package",
                do="Give the dense model that it was made from",
            )
        raise ModelError(f"{path} is already quantised ({method})", do="Give the model in float32, bfloat16 or float16")
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
