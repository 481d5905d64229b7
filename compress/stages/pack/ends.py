"""Packs the token embedding and the output head: plain integer codes, rounded without data.

    .work/ends.safetensors      planes, written before the first block is packed
    .work/ends.json             their manifest entries, written after the planes

From then on the stage embeds tokens with the packed table and computes logits with the packed head, as the finished
model will.

Shape letters: V vocabulary, H hidden, R rows of one stretch, G groups of g columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from compress.format import files, layouts, naming
from compress.format.layouts import int_group
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.json_files import read_object
from compress.models.weights import check_finite
from compress.numerics import ranges
from compress.stages import memory
from compress.stages.pack.jobs import one_thread

if TYPE_CHECKING:
    from compress.models.blocks import BlockWalker
    from compress.models.rows import Rows
    from compress.progress import Progress
    from compress.stages.plan.ends import End
    from compress.stages.workspace import Workspace

_PLANES, _ENTRIES = "ends.safetensors", "ends.json"
_STRETCH = 1 << 22
"""Weights that are packed at once."""
_ROWS = 32
"""Rows of a stretch are a multiple of this, so that streams of zero points, which run down the rows, can be joined."""
_GROUP, _LEAST_GROUP = 64, 16
"""Columns of a group: the greatest divisor of the width in this range; where there is none, the whole row."""
_SYMMETRIC_FROM = 8
"""Bits from which on scales alone serve best; below, zero points halve the error of a skewed table."""


@dataclass(frozen=True, slots=True)
class PackedEnds:
    """The packed matrices outside the blocks, by name."""

    packed: Mapping[str, PackedTensor] = field(default_factory=dict)
    entries: Mapping[str, Any] = field(default_factory=dict)
    """Their manifest entries."""

    @property
    def parameters(self) -> frozenset[str]:
        """Names of the weights that are packed."""
        return frozenset(f"{name}.weight" for name in self.packed)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The planes by the names that they are stored under."""
        return naming.plane_tensors(self.packed)


def prepare(
    workspace: Workspace, walker: BlockWalker, ends: Sequence[End], limit: int | None, progress: Progress
) -> PackedEnds:
    """Returns the packed ends, and has the walker compute with them.

    Those that an earlier run of this workspace packed are read from its folder; those that the source has packed are
    the source's.
    """
    packed: dict[str, PackedTensor] = {}
    entries: dict[str, Any] = {}
    for end in ends:
        if end.kept and (part := walker.kept.part(end.name)) is not None:
            packed[end.name], entries[end.name] = part, {**(walker.kept.entry(end.name) or {}), "role": end.role}
    if wanted := [end for end in ends if end.bits is not None]:
        if not (workspace.work / _ENTRIES).is_file():
            _pack(workspace, walker, wanted, limit, progress)
        own = read_object(workspace.work / _ENTRIES)
        packed |= _read(workspace, own)
        entries |= own
    walker.use_packed({f"{name}.weight": one for name, one in packed.items()})
    return PackedEnds(packed, entries)


def _pack(
    workspace: Workspace, walker: BlockWalker, ends: Sequence[End], limit: int | None, progress: Progress
) -> None:
    packed: dict[str, PackedTensor] = {}
    entries: dict[str, Any] = {}
    with progress.stage("Packing embedding and head", len(ends)) as task, one_thread():
        for end in ends:
            rows = walker.rows(end.parameter)
            assert rows is not None and end.bits is not None, f"{end.name} was not to be packed"
            packed[end.name], error = pack(rows, end.shape, end.bits, end.name)
            entries[end.name] = _entry(end, packed[end.name], error)
            memory.enforce(limit, end.name)
            task.advance(1, end.name)
    files.write_tensors(workspace.work / _PLANES, naming.plane_tensors(packed))
    files.write_json(workspace.work / _ENTRIES, entries)


def pack(rows: Rows, shape: tuple[int, int], bits: int, layer: str) -> tuple[PackedTensor, float]:
    """Returns the packed matrix [V, H] and ‖W − Ŵ‖² / ‖W‖²; it is read and packed a stretch of rows at a time.

    Raises:
        ModelError: a weight is NaN or infinite.
    """
    vocabulary, width = shape
    size = max(_ROWS, _STRETCH // width // _ROWS * _ROWS)
    parts: list[PackedTensor] = []
    lost = whole = 0.0
    for start in range(0, vocabulary, size):
        w_RH = rows.stretch(start, min(start + size, vocabulary)).float()
        check_finite(w_RH, f"{layer}.weight")
        parts.append(rounded(w_RH, bits))
        lost += float((layouts.unpack(parts[-1]) - w_RH).double().square().sum())
        whole += float(w_RH.double().square().sum())
    return _joined(parts, shape), lost / whole if whole else 0.0


def rounded(w_RH: torch.Tensor, bits: int) -> PackedTensor:
    """Returns the rows rounded to the nearest code of their group."""
    width = w_RH.shape[1]
    group = next((size for size in range(_GROUP, _LEAST_GROUP - 1, -1) if width % size == 0), width)
    w_RGg = w_RH.reshape(w_RH.shape[0], width // group, group)
    fitted = ranges.searched(w_RGg, bits, symmetric=bits >= _SYMMETRIC_FROM)
    return int_group.pack(ranges.codes(w_RGg, fitted, bits), fitted.scale_NG, fitted.zero_NG, bits=bits)


def sample_scheme(width: int, bits: int) -> Scheme:
    """Returns the scheme of an embedding or a head of this width."""
    return rounded(torch.eye(_ROWS, width), bits).scheme


def _joined(parts: Sequence[PackedTensor], shape: tuple[int, int]) -> PackedTensor:
    """Returns one tensor of the rows of all parts; scales are float32 if those of any part are."""
    wide = [part for part in parts if part.planes["scale"].dtype == torch.float32]
    scheme = (wide or parts)[0].scheme
    dtype = (wide or parts)[0].planes["scale"].dtype
    planes = {name: torch.cat([part.planes[name] for part in parts]) for name in parts[0].planes if name != "scale"}
    planes["scale"] = torch.cat([part.planes["scale"].to(dtype) for part in parts])
    return PackedTensor(shape, scheme, planes)


def _entry(end: End, packed: PackedTensor, error: float) -> dict[str, Any]:
    return {
        "scheme": packed.scheme.to_dict(),
        "shape": list(packed.shape),
        "bias": end.bias,
        "role": end.role,
        "method": "rtn",
        "size_bytes": packed.size_bytes,
        "bits_per_weight": round(packed.bits_per_weight, 6),
        "outliers": 0,
        "relative_error": error,
        "error_of": "weights",
        "tokens": None,
    }


def _read(workspace: Workspace, entries: Mapping[str, Any]) -> dict[str, PackedTensor]:
    """Returns the packed ends of an earlier step; their planes are mapped from the file, not copied into memory."""
    from safetensors import safe_open

    packed: dict[str, PackedTensor] = {}
    with safe_open(workspace.work / _PLANES, framework="pt") as file:
        for name, entry in entries.items():
            scheme, shape = Scheme.from_dict(entry["scheme"]), (entry["shape"][0], entry["shape"][1])
            planes = {plane: file.get_tensor(f"{name}.{plane}") for plane in layouts.plane_specs(scheme, shape)}
            packed[name] = PackedTensor(shape, scheme, planes)
    return packed
