"""Reads and checks compress.json, the manifest of a checkpoint. Imports no torch, as `compress inspect` requires."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from compress.errors import FormatError
from compress.format.scheme import Scheme
from compress.format.scheme_table import expand
from compress.json_files import read_object

FORMAT_VERSION = 3
"""Newest version of the format that is read; `version_of` gives the one that a folder needs."""
MANIFEST = "compress.json"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
EXPORT = "compress_export.json"
"""Record in a folder that was exported for another program; it has no manifest."""
QUANT_METHOD = "compress"

REQUIRED = ("format_version", "tensors", "shards")
"""Fields of the manifest that a reader needs; every other field is information for people and reports."""
TENSOR_REQUIRED = ("scheme", "shape", "bias")
SHARD_REQUIRED = ("file", "size_bytes", "sha256")

_SHARD_FILE = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@cache
def known_layouts() -> tuple[str, ...]:
    """Returns the layout ids that this package can read, from the source of the layout files (no torch)."""
    files = sorted((Path(__file__).parent / "layouts").glob("*.py"))
    found = (re.search(r'^LAYOUT = "(.+)"$', file.read_text(encoding="utf-8"), re.MULTILINE) for file in files)
    return tuple(match[1] for match in found if match)


def shard_name(index: int, count: int) -> str:
    """Returns the file name of the shard `index` (from 0) of `count`."""
    return f"model-{index + 1:05d}-of-{count:05d}.safetensors"


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Returns the checked manifest of `folder`.

    Raises FormatError for a folder without one, a newer format, an unknown layout, and missing or ill-typed fields.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise _no_manifest(folder)
    manifest = read_object(folder / MANIFEST)
    check_version(manifest.get("format_version"))
    _require(manifest, REQUIRED, MANIFEST)
    check_tensors(manifest["tensors"])
    check_kv_cache(manifest.get("kv_cache"))
    _check_shards(manifest["shards"])
    return manifest


def fingerprint(folder: str | Path) -> str:
    """Returns the fingerprint of a checkpoint: the sha256 of its manifest, which lists the sha256 of every shard."""
    return hashlib.sha256((Path(folder) / MANIFEST).read_bytes()).hexdigest()


def check_version(version: object) -> None:
    """Raises FormatError unless this package reads that `format_version`."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise FormatError(f"format_version is {version!r}", allowed=f"1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise FormatError(
            f"the checkpoint has format version {version}, this package reads up to {FORMAT_VERSION}",
            do="Update it: pip install --upgrade compress-llm",
        )


def version_of(tensors: Mapping[str, Any], kv_cache: object = None) -> int:
    """Returns the format version of a folder: 3 where inputs of linears or a cache are rounded, otherwise 2."""
    return 3 if kv_cache or any("activations" in entry["scheme"]["options"] for entry in tensors.values()) else 2


def stated_tensors(quantization: Mapping[str, Any]) -> Any:
    """Returns the entries by name that the `quantization_config` of config.json states: of version 1 as they stand."""
    tensors = quantization.get("tensors")
    return expand(tensors) if isinstance(tensors, list) else tensors


def check_tensors(tensors: object) -> None:
    """Raises FormatError unless `tensors` maps names of linears to well-typed entries of known layouts."""
    if not isinstance(tensors, Mapping):
        raise FormatError("`tensors` is not an object")
    for name, entry in tensors.items():
        if not isinstance(entry, Mapping):
            raise FormatError("its entry in `tensors` is not an object", layer=name)
        _require(entry, TENSOR_REQUIRED, "its entry in `tensors`", layer=name)
        layout = Scheme.from_dict(entry["scheme"]).layout
        if layout not in known_layouts():
            raise FormatError(
                f"unknown layout {layout!r}",
                allowed=", ".join(known_layouts()),
                do="Update the package to read this checkpoint: pip install --upgrade compress-llm",
                layer=name,
            )
        shape = entry["shape"]
        if not (isinstance(shape, (list, tuple)) and len(shape) == 2 and all(_is_count(size, 1) for size in shape)):
            raise FormatError(f"shape {shape!r}", allowed="[out features, in features]", layer=name)
        if not isinstance(entry["bias"], bool):
            raise FormatError(f"bias {entry['bias']!r}", allowed="true or false", layer=name)


def check_kv_cache(kv_cache: object) -> None:
    """Raises FormatError unless `kv_cache` is missing, or gives two scales above 0 for every module that it names."""
    if kv_cache is None:
        return
    scales = kv_cache.get("scales") if isinstance(kv_cache, Mapping) else None
    if not isinstance(kv_cache, Mapping) or kv_cache.get("dtype") != "fp8" or not isinstance(scales, Mapping):
        raise FormatError(f"kv_cache {kv_cache!r}", allowed="an object with the dtype fp8 and scales")
    for name, pair in scales.items():
        numbers = isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, float) for one in pair)
        if not numbers or not all(0 < one < math.inf for one in pair):
            raise FormatError(f"scales {pair!r} of keys and values", allowed="two numbers above 0", layer=name)


def _check_shards(shards: object) -> None:
    if not isinstance(shards, list) or not shards:
        raise FormatError("`shards` is not a list of files")
    for shard in shards:
        if not isinstance(shard, Mapping):
            raise FormatError(f"shard entry {shard!r} is not an object")
        _require(shard, SHARD_REQUIRED, "an entry of `shards`")
        # the name is joined to the folder: only a plain shard name is safe
        if not (isinstance(shard["file"], str) and _SHARD_FILE.fullmatch(shard["file"])):
            raise FormatError(
                f"shard file name {shard['file']!r}", allowed="model-00001-of-00002.safetensors and so on"
            )
        if not _is_count(shard["size_bytes"], 0):
            raise FormatError(f"{shard['file']}: size_bytes is {shard['size_bytes']!r}")
        if not (isinstance(shard["sha256"], str) and _SHA256.fullmatch(shard["sha256"])):
            raise FormatError(f"{shard['file']}: sha256 is {shard['sha256']!r}")
    files = [shard["file"] for shard in shards]
    if len(set(files)) != len(files):
        raise FormatError("`shards` names a file twice")


def _no_manifest(folder: Path) -> FormatError:
    if not folder.is_dir():
        return FormatError(
            f"there is no folder {folder}", allowed="the folder of a finished run", do="Correct the path"
        )
    if (folder / EXPORT).is_file():
        return FormatError(
            f"{folder} is an export for another program and has no {MANIFEST}",
            allowed="a folder that compress has written for itself",
            do="Give the checkpoint that it was exported from; compress run and eval also open the export",
        )
    if any(_SHARD_FILE.fullmatch(path.name.removesuffix(".partial")) for path in folder.iterdir()):
        return FormatError(
            f"{folder} has shards but no {MANIFEST}: the run that wrote it did not finish",
            do="Run the same command again to resume it. If save_pretrained of a loaded model wrote it, "
            "it has no record of a run: compress.load and compress.evaluate open it",
        )
    return FormatError(f"{folder} has no {MANIFEST}", allowed="a folder that compress has written")


def _require(data: Mapping[str, Any], fields: tuple[str, ...], where: str, layer: str | None = None) -> None:
    if missing := [name for name in fields if name not in data]:
        raise FormatError(f"{where} lacks {', '.join(missing)}", layer=layer)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
