"""Lists the files of a folder of text: files of rows, text files, or a data set that `save_to_disk` wrote."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from compress.errors import TextError
from compress.json_files import read_object
from compress.texts.decode import COMPRESSED, base_suffix
from compress.texts.rows import ROW_FILES

TEXT_FILES = (".txt", ".md")
"""Suffixes of files that are one document each."""
_STATE, _SPLITS = "state.json", "dataset_dict.json"
"""Files of `save_to_disk`: of a data set, and of one that has splits, each a data set in a folder of its own."""
_TRAIN = "train"
_OTHER_SPLITS = {"test", "tests", "validation", "valid", "val", "dev", "eval", "evaluation"}
_NO_TEXT = re.compile(r"readme.*|licen[sc]e.*|dataset_infos?\.json|changelog.*", re.IGNORECASE)


def files_in(folder: Path) -> list[Path]:
    """Returns the files of a folder that hold text, sorted by their paths.

    Of a data set that `save_to_disk` wrote these are its shards, in order. Of any other folder they are all files of
    rows in it and below it, or its text files where it has no rows. Where file names tell splits apart, those of
    `train` are taken, or else all but test and validation.

    Raises:
        TextError: the folder holds no file that is read, or a data set whose split has to be named.
    """
    if (folder / _SPLITS).is_file():
        return files_in(folder / _split_of(folder))
    if (folder / _STATE).is_file():
        return [folder / name for name in _shards(folder)]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and _may_hold_text(path, folder)]
    rows = [path for path in files if base_suffix(path) in ROW_FILES]
    files = _of_training(rows or [path for path in files if base_suffix(path) in TEXT_FILES], folder)
    if not files:
        raise TextError(
            f"the folder {folder} holds no file of text",
            allowed=", ".join((*ROW_FILES, *TEXT_FILES)) + f", each also compressed ({', '.join(COMPRESSED)}), "
            "or what save_to_disk wrote",
        )
    return files


def _split_of(folder: Path) -> str:
    splits = _names(read_object(folder / _SPLITS, error=TextError).get("splits"))
    if _TRAIN in splits or len(splits) == 1:
        return _TRAIN if _TRAIN in splits else splits[0]
    raise TextError(
        f"the data set {folder} has no split {_TRAIN}; its splits are {', '.join(splits) or 'none'}",
        do=f"Name the folder of one: {folder}/{splits[0]}" if splits else None,
    )


def _shards(folder: Path) -> list[str]:
    entries = read_object(folder / _STATE, error=TextError).get("_data_files")
    entries = entries if isinstance(entries, list) else []
    shards = _names([entry.get("filename") for entry in entries if isinstance(entry, dict)])
    if not shards:
        raise TextError(f"{folder / _STATE} names no shard", do="Save the data set again with save_to_disk")
    return shards


def _names(value: Any) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []


def _may_hold_text(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    return not hidden and not _NO_TEXT.fullmatch(path.name)


def _of_training(files: list[Path], folder: Path) -> list[Path]:
    words = {path: set(re.split(r"[^a-z]+", str(path.relative_to(folder)).lower())) for path in files}
    training = [path for path in files if _TRAIN in words[path]]
    return training or [path for path in files if not words[path] & _OTHER_SPLITS] or files
