"""Writes the folder that llama.cpp's converter reads: all of the model but the values of packed matrices.

Those are there in name and shape. Their file has no data on disk where the file system knows gaps in files.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from compress.errors import OutputError
from compress.exports.hub_folder import dense_tensors, groups
from compress.exports.linear import CONV1D, Linear
from compress.exports.plan import Plan, edited_config
from compress.format import dtypes, files
from compress.format.manifest import CONFIG, INDEX

_GAPS = "model-gaps.safetensors"
_DTYPE = "F16"


def write(plan: Plan, folder: Path) -> None:
    """Writes the folder, one block of the model at a time in memory."""
    weight_map: dict[str, str] = {}
    for number, names in enumerate(groups(plan)):
        if tensors := dense_tensors(plan, [name for name in names if name not in plan.linears]):
            name = f"model-{number:05}.safetensors"
            files.write_tensors(folder / name, tensors, dtypes.NAMES)
            weight_map |= dict.fromkeys(tensors, name)
    if plan.linears:
        weight_map |= dict.fromkeys(_write_gaps(plan, folder / _GAPS), _GAPS)
    for name, source in plan.source.auxiliary_files().items():
        files.copy(source, folder / name)
    files.write_json(folder / INDEX, {"metadata": {}, "weight_map": weight_map})
    files.write_whole(folder / CONFIG, [json.dumps(edited_config(plan), indent=1).encode()])


def _write_gaps(plan: Plan, path: Path) -> list[str]:
    """Writes a file of the packed matrices without their values; returns their names."""
    described: files.Described = {f"{name}.weight": (_DTYPE, shape(linear)) for name, linear in plan.linears.items()}
    head, ordered = files.header(described)
    try:
        with path.open("wb") as file:
            file.write(head)
            file.truncate(len(head) + sum(math.prod(dimensions) * 2 for _, dimensions in ordered.values()))
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return list(ordered)


def shape(linear: Linear) -> tuple[int, int]:
    """Returns the shape that the matrix has on the hub."""
    rows, columns = linear.shape
    return (columns, rows) if linear.kind == CONV1D else (rows, columns)
