"""Writes `model.gguf`: fills the gaps that the converter left, reads the file with the package `gguf`, and compares.

A file that is larger than asked for is then split (`split`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from compress.errors import FormatError, OutputError
from compress.exports.gguf import target
from compress.exports.gguf.convert import Conversion, Gap, convert
from compress.exports.gguf.split import split
from compress.exports.plan import Plan
from compress.format import layouts, naming

if TYPE_CHECKING:
    from compress.exports.linear import Linear
    from compress.progress import Progress

FILE = "model.gguf"
_WORK = "work"
_CHECKED_AT_ONCE = 1 << 24
"""Weights that are decoded at a time."""

_Array = np.ndarray[Any, Any]


def write(plan: Plan, folder: Path, most: int, progress: Progress) -> Plan:
    """See `Container.write`."""
    gguf, work = target.reader(), folder / _WORK
    plan, conversion = _converted(plan, work, folder / FILE)
    parts = [(gap, *part) for gap in conversion.gaps for part in _parts(gap, list(plan.linears.values()))]
    with progress.stage("Writing", 2 * len(parts)) as task:
        with (folder / FILE).open("r+b") as file:
            for gap, linear, places, rows in parts:
                _fill(plan, file, gap, linear, places, rows)
                task.advance(note=gap.name)
            os.fsync(file.fileno())
        stored = {one.name: one for one in gguf.GGUFReader(folder / FILE).tensors}
        for gap, linear, places, rows in parts:
            _check(plan, stored[gap.name], linear, places, rows)
            task.advance(note=gap.name)
    shutil.rmtree(work)
    split(folder / FILE, most)
    return plan


def _converted(plan: Plan, work: Path, output: Path) -> tuple[Plan, Conversion]:
    """Returns the plan that can be carried out, and what the converter did."""
    while (conversion := convert(plan, work, output)).unplaced:
        name, why = next(iter(conversion.unplaced.items()))
        if not plan.allow_dense:
            raise OutputError(
                f"gguf cannot hold {len(conversion.unplaced)} of the packed linears, the first because {why}",
                do="Give --allow-dense to store them decoded, or choose a target that holds them",
                layer=name,
            )
        # a parameter is decoded as a whole
        lost = {naming.parameter(plan.linears[name].origin): why for name, why in conversion.unplaced.items()}
        moved = {name: one for name, one in plan.linears.items() if naming.parameter(one.origin) in lost}
        decoded = {name: (one, lost[naming.parameter(one.origin)]) for name, one in moved.items()}
        kept = {name: one for name, one in plan.linears.items() if name not in moved}
        plan = replace(plan, linears=kept, decoded={**plan.decoded, **decoded})
        shutil.rmtree(work)
    return plan, conversion


def _parts(gap: Gap, linears: list[Linear]) -> Iterator[tuple[Linear, _Array, _Array]]:
    """Yields each linear with rows in the gap, the places of these rows in the gap, and their numbers in the linear."""
    starts = np.cumsum([0, *(linear.shape[0] for linear in linears)])
    owners = np.searchsorted(starts, gap.rows, side="right") - 1
    for owner in np.unique(owners):
        places = np.flatnonzero(owners == owner)
        yield linears[owner], places, gap.rows[places] - starts[owner]


def _fill(plan: Plan, file: Any, gap: Gap, linear: Linear, places: _Array, rows: _Array) -> None:
    """Writes the blocks of rows of a linear, those of neighbouring places at once."""
    blocks_NY = plan.target.tensors(linear, plan.packed(linear))["blocks"].numpy()[rows]
    ends = np.flatnonzero(np.diff(places) != 1) + 1
    try:
        for stretch, blocks_RY in zip(np.split(places, ends), np.split(blocks_NY, ends), strict=True):
            file.seek(gap.offset + int(stretch[0]) * gap.kind.row_bytes(gap.columns))
            file.write(np.ascontiguousarray(blocks_RY).data)
    except OSError as error:
        raise OutputError(f"cannot write {FILE}: {error.strerror or error}", do="Make room for it") from error


def _check(plan: Plan, stored: Any, linear: Linear, places: _Array, rows: _Array) -> None:
    """Raises FormatError unless the file decodes to the weight of the checkpoint, bit for bit."""
    weight_NK = layouts.unpack(plan.packed(linear))
    blocks_RY = stored.data.reshape(-1, stored.data.shape[-1])
    step = max(1, _CHECKED_AT_ONCE // linear.shape[1])
    for start in range(0, len(places), step):
        some = slice(start, start + step)
        written = target.decode(linear, {"blocks": torch.from_numpy(blocks_RY[places[some]])})
        if not torch.equal(written, weight_NK[torch.from_numpy(rows[some])]):
            raise FormatError("what was written for gguf does not decode to the same weight", layer=linear.name)
