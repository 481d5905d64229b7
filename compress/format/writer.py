"""Writes a checkpoint folder: shards one by one, the manifest last. A folder with a manifest is complete.

Files are written atomically (`files`), so every recorded file is complete even after a crash or power failure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from compress.errors import FormatError, OutputError, in_words
from compress.format import files, layouts, manifest, naming, scheme_table
from compress.format.dtypes import STORED_NAMES
from compress.format.scheme import Scheme

_RESERVED = (manifest.CONFIG, manifest.INDEX, manifest.MANIFEST)


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """Record of a written file: enough to write the index and to check after a crash that the file is unchanged."""

    file: str
    size_bytes: int
    sha256: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    """Tensor name -> (safetensors dtype, shape)."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form, which the pipeline keeps between runs."""
        tensors = {name: [dtype, list(shape)] for name, (dtype, shape) in self.tensors.items()}
        return {"file": self.file, "size_bytes": self.size_bytes, "sha256": self.sha256, "tensors": tensors}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ShardRecord:
        """Reads the JSON form; one that is not well-formed is a FormatError."""
        try:
            tensors = {name: (str(dtype), tuple(shape)) for name, (dtype, shape) in data["tensors"].items()}
            return cls(str(data["file"]), int(data["size_bytes"]), str(data["sha256"]), tensors)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"a shard record is damaged: {in_words(error)}") from error

    def matches(self, folder: Path) -> bool:
        """Returns whether the file in `folder` is the recorded one: size first, then sha256."""
        path = folder / self.file
        try:
            if path.stat().st_size != self.size_bytes:
                return False
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except FileNotFoundError:
            return False


class CheckpointWriter:
    """Writes one checkpoint folder; shard 0 holds the tensors outside the blocks, shard i holds block i−1."""

    def __init__(self, folder: str | Path, *, shard_count: int):
        """Makes the folder; one that already holds a finished checkpoint is an OutputError."""
        self.folder, self.shard_count = Path(folder), shard_count
        if (self.folder / manifest.MANIFEST).exists():
            raise OutputError(
                f"{self.folder} already holds a finished checkpoint", do="Give another folder, or remove this one first"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder {self.folder}: {error.strerror}") from error

    def write_shard(self, index: int, tensors: Mapping[str, torch.Tensor]) -> ShardRecord:
        """Writes the shard `index` (0 to shard_count − 1) and returns its record; a full disk is an OutputError."""
        assert 0 <= index < self.shard_count, f"shard {index} of {self.shard_count}"
        file = manifest.shard_name(index, self.shard_count)
        size_bytes, sha256, described = files.write_tensors(self.folder / file, naming.with_guards(tensors))
        return ShardRecord(file, size_bytes, sha256, described)

    def finish(
        self,
        *,
        records: Iterable[ShardRecord],
        config: Mapping[str, Any],
        manifest: Mapping[str, Any],
        auxiliary: Mapping[str, Path] | None = None,
    ) -> None:
        """Writes copies of the auxiliary files, the index, config.json and last of all the manifest.

        Args:
            records: of all shards.
            config: content of the model's config.json; `quantization_config` is added here where it is needed.
            manifest: content of compress.json with `tensors`; `format_version` and `shards` are added here.
            auxiliary: name in the checkpoint, relative, -> file to copy.

        Raises:
            FormatError: records and manifest do not fit together.
            OutputError: the files cannot be written, or an auxiliary file has a name of the format's own.
        """
        _finish(self.folder, self.shard_count, list(records), dict(config), dict(manifest), dict(auxiliary or {}))


def index(records: Iterable[ShardRecord]) -> dict[str, Any]:
    """Returns the content of the index, by which transformers and engines find the file of a tensor."""
    records = list(records)
    where = {name: record.file for record in records for name in record.tensors}
    total = sum(record.size_bytes for record in records)
    return {"metadata": {"format": "pt", "total_size": total}, "weight_map": dict(sorted(where.items()))}


def _finish(
    folder: Path,
    shard_count: int,
    records: list[ShardRecord],
    config: dict[str, Any],
    content: dict[str, Any],
    auxiliary: dict[str, Path],
) -> None:
    _check_auxiliary(auxiliary)
    records = sorted(records, key=lambda record: record.file)
    if [record.file for record in records] != [manifest.shard_name(i, shard_count) for i in range(shard_count)]:
        raise FormatError(f"records of {len(records)} shards for a checkpoint of {shard_count}")
    weight_map: dict[str, str] = {}
    stored: dict[str, tuple[str, tuple[int, ...]]] = {}
    for record in records:
        if not (folder / record.file).is_file():
            raise FormatError(f"{record.file} is not in {folder}")
        if twice := sorted(weight_map.keys() & record.tensors.keys()):
            raise FormatError(f"{twice[0]} is stored in both {weight_map[twice[0]]} and {record.file}")
        weight_map |= dict.fromkeys(record.tensors, record.file)
        stored |= record.tensors
    content["shards"] = [{field: getattr(record, field) for field in manifest.SHARD_REQUIRED} for record in records]
    manifest.check_tensors(content.get("tensors"))
    content["format_version"] = manifest.version_of(content["tensors"], content.get("kv_cache"))
    _check_planes(content["tensors"], stored)
    needed = {
        name: {field: entry[field] for field in manifest.TENSOR_REQUIRED} for name, entry in content["tensors"].items()
    }
    # without this entry any loader of the architecture accepts the folder
    if needed or content.get("structure") or content.get("kv_cache"):
        config["quantization_config"] = {
            "quant_method": manifest.QUANT_METHOD,
            "format_version": content["format_version"],
            "tensors": scheme_table.shorten(needed),
            **{name: content[name] for name in ("structure", "kv_cache") if content.get(name)},
        }
    for name, source in sorted(auxiliary.items()):
        files.copy(source, folder / name)
    files.write_json(folder / manifest.INDEX, index(records))
    files.write_json(folder / manifest.CONFIG, config)
    for partial in folder.glob("model-*.safetensors.partial"):
        partial.unlink()
    files.write_json(folder / manifest.MANIFEST, content)


def _check_planes(tensors: Mapping[str, Any], stored: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raises FormatError unless the shards hold every plane and bias listed in the manifest."""
    naming.check_experts(tensors)
    for name, entry in tensors.items():
        specs = layouts.plane_specs(Scheme.from_dict(entry["scheme"]), (entry["shape"][0], entry["shape"][1]))
        for plane, (dtype, shape) in specs.items():
            written = stored.get(f"{name}.{plane}")
            if written != (STORED_NAMES[dtype], shape):
                raise FormatError(f"plane {plane!r} was written as {written}", allowed=f"{dtype} {shape}", layer=name)
        if specs["weight"][1] == tuple(entry["shape"]):
            raise FormatError(
                f"the codes of a {entry['shape']} weight have the same shape as the weight: loaders would mix them up",
                do="Leave it dense",
                layer=name,
            )
        if entry["bias"] and f"{name}.bias" not in stored:
            raise FormatError("its bias was not written", layer=name)


def _check_auxiliary(names: Iterable[str]) -> None:
    """Raises OutputError for a file that would overwrite a checkpoint file or lie outside the folder."""
    for name in names:
        parts = PurePosixPath(name).parts
        if name in _RESERVED or name.endswith(".safetensors") or ".." in parts or PurePosixPath(name).is_absolute():
            raise OutputError(f"the auxiliary file {name} would overwrite a file of the checkpoint")
