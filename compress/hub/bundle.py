"""Collects what is uploaded of a folder, a checkpoint or an export, and checks that it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import FormatError
from compress.format.manifest import CONFIG, EXPORT, INDEX, MANIFEST
from compress.format.reader import open_checkpoint
from compress.hub import card
from compress.json_files import read_object
from compress.models.folder.extra_files import list_extra_files

WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".npz")
"""Suffixes of files of weights."""


@dataclass(frozen=True)
class Bundle:
    """What is uploaded."""

    files: dict[str, Path]
    """Name in the repository -> file, without the model card."""
    card: str
    """README.md."""
    paths: list[str]
    """Paths of this machine that the manifest names, such as that of calibration text."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files.values()) + len(self.card.encode())


def collect(folder: Path, repo: str) -> Bundle:
    """Returns what is uploaded of a finished folder; the folder stays as it is.

    Results of evaluations and whatever else lies there without belonging to the model are left out.

    Args:
        folder: a checkpoint or an export of this package.
        repo: name of the repository, which the card shows in its example.

    Raises:
        FormatError: the folder is not finished, damaged, or was not written by this package.
    """
    paths: list[str] = []
    if (folder / EXPORT).is_file():
        names = _export(folder)
        text = card.of_export(folder, read_object(folder / EXPORT), repo)
    else:
        checkpoint = open_checkpoint(folder)
        checkpoint.verify()
        names = [MANIFEST, CONFIG, INDEX, *(shard["file"] for shard in checkpoint.manifest["shards"])]
        paths = sorted({text for text in _texts(checkpoint.manifest) if Path(text).is_absolute()})
        text = card.of_checkpoint(folder, repo)
    files = {name: folder / name for name in names} | list_extra_files(folder)
    return Bundle(dict(sorted(files.items())), text, paths)


def _texts(value: object) -> Iterator[str]:
    """Yields every text in parsed JSON."""
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(part)


def _export(folder: Path) -> list[str]:
    """Returns the names of an export's own files, after a look at each file of weights."""
    if folder.name.endswith(".partial"):
        raise FormatError(f"{folder} is half written", do="Export again")
    weights = sorted(path.name for path in folder.glob("*.gguf"))
    names = [EXPORT]
    if not weights:
        index = read_object(folder / INDEX)
        weights = sorted(set(_listed(index, folder / INDEX)))
        names += [CONFIG, INDEX]
    for name in [*names, *weights]:
        if not (folder / name).is_file():
            raise FormatError(f"{folder / name} is missing", do="Export again")
        if name.endswith(".safetensors"):
            _check_size(folder / name)
    return [*names, *weights]


def _listed(index: dict[str, Any], path: Path) -> list[str]:
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) and "/" not in name for name in listed.values()):
        raise FormatError(f"{path} has no list of files in `weight_map`", do="Export again")
    return list(listed.values())


def _check_size(path: Path) -> None:
    """Raises FormatError for a file whose bytes do not fit its header, as where a copy was cut short."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} is damaged: {error}", do="Export again, or copy the file again") from error
