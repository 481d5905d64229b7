"""Splits a GGUF file into several, `name-00001-of-0000N.gguf`, as llama.cpp reads them: it is given the first.

Metadata is in the first file; each has the keys `split.no`, `split.count` and `split.tensors.count`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import FormatError, OutputError
from compress.exports.gguf import target

_ARCHITECTURE, _ALIGNMENT = "general.architecture", "general.alignment"


def split(path: Path, most: int) -> list[Path]:
    """Replaces the file by several of at most so many bytes of tensors, in the order that they have in it.

    A larger tensor gets a file of its own. A file that is small enough stays as it is.

    Args:
        path: a GGUF file, whose name ends in `.gguf`.
        most: bytes of the tensors of a file.

    Returns:
        The files, the first one first.

    Raises:
        FormatError: what was written does not hold the same bytes.
        OutputError: a file cannot be written.
    """
    reader = target.reader().GGUFReader(path)
    groups = _groups(reader.tensors, most)
    if len(groups) == 1:
        return [path]
    names = [f"{path.stem}-{number:05}-of-{len(groups):05}.gguf" for number in range(1, len(groups) + 1)]
    files = [path.with_name(name) for name in names]
    for number, (file, tensors) in enumerate(zip(files, groups, strict=True)):
        try:
            _write(file, reader, tensors, number, len(groups))
        except OSError as error:
            raise OutputError(f"cannot write {file.name}: {error.strerror or error}", do="Make room for it") from error
        _check(file, tensors)
    path.unlink()
    return files


def _groups(tensors: Sequence[Any], most: int) -> list[list[Any]]:
    groups: list[list[Any]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.n_bytes > most:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += int(tensor.n_bytes)
    return groups


def _write(file: Path, reader: Any, tensors: Sequence[Any], number: int, count: int) -> None:
    gguf = target.reader()
    writer = gguf.GGUFWriter(file, str(reader.fields[_ARCHITECTURE].contents()))
    for key, field in reader.fields.items() if number == 0 else ():
        if not key.startswith("GGUF.") and key not in (_ARCHITECTURE, _ALIGNMENT):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kind, sub_type=inner)
    writer.add_uint16(gguf.Keys.Split.LLM_KV_SPLIT_NO, number)
    writer.add_uint16(gguf.Keys.Split.LLM_KV_SPLIT_COUNT, count)
    writer.add_int32(gguf.Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT, len(reader.tensors))
    for tensor in tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _check(file: Path, tensors: Sequence[Any]) -> None:
    stored = {one.name: one for one in target.reader().GGUFReader(file).tensors}
    for tensor in tensors:
        one = stored.get(tensor.name)
        if one is None or one.tensor_type != tensor.tensor_type or not np.array_equal(one.data, tensor.data):
            raise FormatError(f"what was written to {file.name} for {tensor.name} is not what was split")
