"""Writes the export: block by block into a folder beside the output, which takes the output's name when it is whole."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compress import __version__
from compress.errors import FormatError, OutputError
from compress.exports import card
from compress.exports.plan import Plan, edited_config, make
from compress.format import dtypes, files, layouts, merge, naming
from compress.format.manifest import CONFIG, INDEX, shard_name
from compress.format.writer import ShardRecord, index
from compress.models import hub_names
from compress.progress import Progress, Silent
from compress.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compress.exports.linear import Linear

RECORD = "compress_export.json"
_BLOCK = re.compile(r".*?\.\d+\.|")


def export(
    folder: str | Path,
    to: str,
    output: str | Path | None = None,
    *,
    allow_dense: bool = False,
    dense_dtype: str = "float32",
    max_shard_size: str | int = "5GB",
    progress: Progress | None = None,
) -> Path:
    """Writes the checkpoint in `folder` in the format of another program and returns the new folder.

    Codes, scales and codebooks are copied under other names; nothing is rounded. What the format cannot hold is an
    error, unless `allow_dense`. Every tensor that was written is read back and decoded: it must give the same weight.

    Args:
        folder: a finished checkpoint of this package.
        to: a target, see `compress.exports.target.TARGETS`.
        output: folder to write, which must not exist; `<folder>-<to>` by default.
        allow_dense: decode the linears that the format cannot hold, and store them dense.
        dense_dtype: dtype of decoded weights: float32, which is exact, bfloat16 or float16.
        max_shard_size: bytes of the largest file, or text such as `5GB`.
        progress: receives the progress.

    Raises:
        FormatError: the folder is damaged or unfinished.
        OutputError: the target cannot hold the model, the output exists, or it cannot be written.
    """
    plan = make(folder, to, allow_dense=allow_dense, dense_dtype=dense_dtype)
    return write(plan, output, max_shard_size=max_shard_size, progress=progress)


def write(
    plan: Plan,
    output: str | Path | None = None,
    *,
    max_shard_size: str | int = "5GB",
    progress: Progress | None = None,
) -> Path:
    """Does what the plan says and returns the new folder; see `export`."""
    target = Path(output) if output else Path(f"{plan.checkpoint.folder}-{plan.to}")
    if target.exists():
        raise OutputError(f"{target} exists", do="Give another folder with -o, or remove this one")
    most = parse_size(max_shard_size) if isinstance(max_shard_size, str) else max_shard_size
    unfinished = target.with_name(f"{target.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        _write(plan, unfinished, most, progress or Silent())
        files.move(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)  # gone already where all went well
    return target


def _write(plan: Plan, folder: Path, most: int, progress: Progress) -> None:
    plan.checkpoint.verify()
    groups = _groups(plan)
    records = []
    with progress.stage("Writing", len(groups)) as task:
        for number, names in enumerate(groups):
            records.append(_shard(plan, folder, shard_name(number, len(groups)), names))
            task.advance(note=names[0])
    joined = merge.merge(folder, records, most)
    merge.remove_parts(folder, records, [record.file for record in joined])
    for name, source in plan.source.auxiliary_files().items():
        files.copy(source, folder / name)
    files.write_json(folder / INDEX, index(joined))
    files.write_json(folder / RECORD, _record(plan))
    files.write_whole(folder / "README.md", [card.text(plan).encode()])
    files.write_json(folder / CONFIG, edited_config(plan))


def _groups(plan: Plan) -> list[list[str]]:
    """Returns the names of linears and dense tensors, those of a block together."""
    groups: dict[str, list[str]] = {}
    for name in (*plan.checkpoint.dense_names, *plan.linears, *plan.decoded):
        groups.setdefault(_BLOCK.match(f"{name}.")[0], []).append(name)  # type: ignore[index]
    return list(groups.values())


def _shard(plan: Plan, folder: Path, file: str, names: list[str]) -> ShardRecord:
    """Writes one file and checks what was written; returns its record."""
    linears = [plan.linears[name] for name in names if name in plan.linears]
    decoded = [plan.decoded[name][0] for name in names if name in plan.decoded]
    dense = {name: plan.checkpoint.dense(name) for name in names if name not in {*plan.linears, *plan.decoded}}
    for name in dict.fromkeys(naming.parameter(linear.origin) for linear in decoded):
        dense[name] = plan.walker.read_dense(name).to(plan.dense_dtype)
    tensors = _packed(plan, linears) | hub_names.as_stored(plan.walker.model, dense)
    size_bytes, sha256, described = files.write_tensors(folder / file, tensors, dtypes.NAMES)
    for linear in linears:
        _check(plan, folder / file, linear)
    return ShardRecord(file, size_bytes, sha256, described)


def _packed(plan: Plan, linears: list[Linear]) -> dict[str, torch.Tensor]:
    """Returns what is stored for packed linears by name; experts that share a module are stacked by number."""
    tensors: dict[str, torch.Tensor] = {}
    stacks: dict[str, dict[int, torch.Tensor]] = {}
    for linear in linears:
        for suffix, tensor in plan.target.tensors(linear, plan.packed(linear)).items():
            if linear.stack is None:
                tensors[f"{linear.name}.{suffix}"] = tensor
            else:
                stacks.setdefault(f"{linear.stack[0]}.{suffix}", {})[linear.stack[1]] = tensor
    return tensors | {name: torch.stack([parts[e] for e in range(len(parts))]) for name, parts in stacks.items()}


def _check(plan: Plan, path: Path, linear: Linear) -> None:
    """Raises FormatError unless the written tensors decode to the weight of the checkpoint, bit for bit."""
    from safetensors import safe_open

    module, expert = linear.stack or (linear.name, None)
    with safe_open(path, framework="pt") as file:
        names = [full for full in file.keys() if full.rpartition(".")[0] == module]  # noqa: SIM118 (no mapping)
        parts = {name: file.get_tensor(name) if expert is None else file.get_slice(name)[expert] for name in names}
    stored = {name.removeprefix(f"{module}."): part for name, part in parts.items()}
    if not torch.equal(plan.target.decode(linear, stored), layouts.unpack(plan.packed(linear))):
        raise FormatError(f"what was written for {plan.to} does not decode to the same weight", layer=linear.name)


def _record(plan: Plan) -> dict[str, Any]:
    """Returns what compress_export.json says: where the weights come from, and what became of each."""
    became: Mapping[str, Any] = {name: {"outcome": "lossless"} for name in plan.linears}
    became = {**became, **{name: {"outcome": "dense", "why": why} for name, (_, why) in plan.decoded.items()}}
    return {
        "target": plan.to,
        "compress_version": __version__,
        "manifest_sha256": plan.fingerprint,
        "dense_dtype": str(plan.dense_dtype).removeprefix("torch."),
        "checked": "every packed tensor was read back and decodes to the same weight",
        "warnings": plan.warnings,
        "tensors": became,
    }
