"""Opens a checkpoint folder for reading. Nothing in it is trusted: names, sizes, shapes and values are checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from compress.errors import FormatError
from compress.format import layouts, manifest, naming
from compress.format.dtypes import STORED_NAMES
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.json_files import read_object


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint whose file sizes, index and planes fit its manifest."""

    folder: Path
    manifest: dict[str, Any] = field(repr=False)
    files: dict[str, str] = field(repr=False)
    """Tensor name -> file that holds it."""
    dtypes: dict[str, str] = field(repr=False)
    """Tensor name -> its dtype by the name in safetensors headers."""

    def verify(self) -> None:
        """Reads every shard once; raises a FormatError that names the first shard with a wrong sha256."""
        for shard in self.manifest["shards"]:
            with (self.folder / shard["file"]).open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 != shard["sha256"]:
                raise FormatError(
                    f"{self.folder / shard['file']} is damaged: its sha256 is {sha256}",
                    allowed=shard["sha256"],
                    do="Copy the file again, or compress again",
                )

    @property
    def dense_names(self) -> list[str]:
        """Names of the tensors that are stored as they were in the model."""
        packed = {f"{name}.{plane}" for name in self.manifest["tensors"] for plane in self._specs(name)}
        guards = {naming.guard(*found[:2]) for name in self.manifest["tensors"] if (found := naming.parse_expert(name))}
        return [name for name in self.files if name not in packed and name not in guards]

    def packed(self, name: str) -> PackedTensor:
        """Returns the packed weight of the linear `name`, its planes checked by its layout."""
        if name not in self.manifest["tensors"]:
            raise FormatError(f"{self.folder} has no packed linear of this name", layer=name)
        entry = self.manifest["tensors"][name]
        planes = {plane: self._read(f"{name}.{plane}") for plane in self._specs(name)}
        tensor = PackedTensor((entry["shape"][0], entry["shape"][1]), Scheme.from_dict(entry["scheme"]), planes)
        layouts.check(tensor, layer=name)
        return tensor

    def dense(self, name: str) -> torch.Tensor:
        """Returns a tensor that was not compressed, in the dtype it is stored in."""
        if name not in self.files:
            raise FormatError(f"{self.folder} has no tensor {name}")
        return self._read(name)

    def _specs(self, name: str) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        entry = self.manifest["tensors"][name]
        return layouts.plane_specs(Scheme.from_dict(entry["scheme"]), (entry["shape"][0], entry["shape"][1]))

    def _read(self, name: str) -> torch.Tensor:
        with _open(self.folder / self.files[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Returns the checkpoint in `folder` after all checks that do not read the weights.

    Raises FormatError for what `manifest.read_manifest` refuses, for missing or truncated shards, an index that does
    not fit the shards, planes that are missing or have another dtype or shape, and a config.json with other schemes.
    """
    folder = Path(folder)
    content = manifest.read_manifest(folder)
    files: dict[str, str] = {}
    stored: dict[str, tuple[str, tuple[int, ...]]] = {}
    for shard in content["shards"]:
        path = folder / shard["file"]
        if not path.is_file():
            raise FormatError(f"the shard {path} is missing", do="Copy the folder again, or compress again")
        if path.stat().st_size != shard["size_bytes"]:
            raise FormatError(
                f"the shard {path} is damaged: it has {path.stat().st_size} bytes",
                allowed=f"{shard['size_bytes']} bytes",
                do="Copy the file again, or compress again",
            )
        with _open(path) as file:
            for name in file.keys():  # noqa: SIM118 (a safetensors handle is not a mapping)
                if name in files:
                    raise FormatError(f"{name} is stored in both {files[name]} and {shard['file']}")
                files[name] = shard["file"]
                piece = file.get_slice(name)
                stored[name] = (piece.get_dtype(), tuple(piece.get_shape()))
    _check_index(folder, files)
    for name, (stored_dtype, _) in stored.items():
        if stored_dtype not in STORED_NAMES.values():
            raise FormatError(f"{name} is stored as {stored_dtype}", allowed=", ".join(STORED_NAMES.values()))
    checkpoint = Checkpoint(folder, content, files, {name: dtype for name, (dtype, _) in stored.items()})
    for name in content["tensors"]:
        for plane, (dtype, shape) in checkpoint._specs(name).items():
            found = stored.get(f"{name}.{plane}")
            if found is None:
                raise FormatError(f"its plane {plane!r} is missing", do="Compress again", layer=name)
            if found != (STORED_NAMES[dtype], shape):
                raise FormatError(f"its plane {plane!r} is {found}", allowed=f"{dtype} {shape}", layer=name)
        _check_bias(name, content["tensors"][name], stored)
    naming.check_experts(content["tensors"])
    _check_config(folder, content)
    return checkpoint


def _check_bias(name: str, entry: dict[str, Any], stored: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raises FormatError unless the bias of a packed linear, where it has one, is a floating-point tensor [N]."""
    if not entry["bias"]:
        return
    bias = stored.get(f"{name}.bias")
    if bias is None:
        raise FormatError("its bias is missing", do="Compress again", layer=name)
    floating = [text for dtype, text in STORED_NAMES.items() if dtype.is_floating_point]
    if bias[0] not in floating or bias[1] != (entry["shape"][0],):
        raise FormatError(f"its bias is {bias}", allowed=f"{', '.join(floating)} ({entry['shape'][0]},)", layer=name)


def _check_index(folder: Path, files: dict[str, str]) -> None:
    """Raises FormatError unless the index (read by transformers) lists the same tensors as the shards."""
    index = read_object(folder / manifest.INDEX)
    if index.get("weight_map") != files:
        raise FormatError(
            f"{folder / manifest.INDEX} does not list the tensors of the shards",
            do="Copy the folder again, or compress again",
        )


def _check_config(folder: Path, content: dict[str, Any]) -> None:
    """Raises FormatError unless config.json (read by transformers) agrees with the manifest."""
    quantization = read_object(folder / manifest.CONFIG).get("quantization_config")
    stated = manifest.stated_tensors(quantization) if isinstance(quantization, dict) else {}
    others = quantization if isinstance(quantization, dict) else {}
    needed = {name: {key: entry[key] for key in manifest.TENSOR_REQUIRED} for name, entry in content["tensors"].items()}
    if stated != needed:
        raise FormatError(f"{folder / manifest.CONFIG} and {manifest.MANIFEST} do not agree on the packed linears")
    for name in ("structure", "kv_cache"):
        if others.get(name) != content.get(name):
            raise FormatError(f"{folder / manifest.CONFIG} and {manifest.MANIFEST} do not agree on the {name}")


def _open(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise FormatError(
            f"the shard {path} is damaged: {error}", do="Copy the file again, or compress again"
        ) from error
