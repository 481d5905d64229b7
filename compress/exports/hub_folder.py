"""Writes an export as a Hugging Face folder: config.json, tokenizer, and safetensors files, one block at a time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compress.errors import FormatError
from compress.exports.plan import Plan, edited_config
from compress.format import dtypes, files, layouts, merge, naming
from compress.format.manifest import CONFIG, INDEX, shard_name
from compress.format.writer import ShardRecord, index
from compress.models import hub_names

if TYPE_CHECKING:
    from compress.exports.linear import Linear
    from compress.progress import Progress

_BLOCK = re.compile(r".*?\.\d+\.|")


def write(plan: Plan, folder: Path, most: int, progress: Progress) -> Plan:
    """See `Container.write`."""
    parts = groups(plan)
    records = []
    with progress.stage("Writing", len(parts)) as task:
        for number, names in enumerate(parts):
            records.append(_shard(plan, folder, shard_name(number, len(parts)), names))
            task.advance(note=names[0])
    joined = merge.merge(folder, records, most)
    merge.remove_parts(folder, records, [record.file for record in joined])
    for name, source in plan.source.auxiliary_files().items():
        files.copy(source, folder / name)
    files.write_json(folder / INDEX, index(joined))
    files.write_json(folder / CONFIG, edited_config(plan))
    return plan


def groups(plan: Plan) -> list[list[str]]:
    """Returns the names of linears and dense tensors, those of a block together."""
    found: dict[str, list[str]] = {}
    for name in (*plan.checkpoint.dense_names, *plan.linears, *plan.decoded):
        found.setdefault(_BLOCK.match(f"{name}.")[0], []).append(name)  # type: ignore[index]
    return list(found.values())


def dense_tensors(plan: Plan, names: list[str]) -> dict[str, torch.Tensor]:
    """Returns the tensors of a group that are stored dense, by their names on the hub: some were decoded for it."""
    decoded = [plan.decoded[name][0] for name in names if name in plan.decoded]
    dense = {name: plan.checkpoint.dense(name) for name in names if name not in {*plan.linears, *plan.decoded}}
    for name in dict.fromkeys(naming.parameter(linear.origin) for linear in decoded):
        dense[name] = plan.walker.read_dense(name).to(plan.dense_dtype)
    return hub_names.as_stored(plan.walker.model, dense)


def _shard(plan: Plan, folder: Path, file: str, names: list[str]) -> ShardRecord:
    """Writes one file and checks what was written; returns its record."""
    linears = [plan.linears[name] for name in names if name in plan.linears]
    tensors = _packed(plan, linears) | dense_tensors(plan, names) | _kv_scales(plan, names)
    size_bytes, sha256, described = files.write_tensors(folder / file, tensors, dtypes.NAMES)
    for linear in linears:
        _check(plan, folder / file, linear)
    return ShardRecord(file, size_bytes, sha256, described)


def _kv_scales(plan: Plan, names: list[str]) -> dict[str, torch.Tensor]:
    """Returns the scales of keys and values of the block that the names are of, float32 [1]."""
    block = _BLOCK.match(f"{names[0]}.")[0]  # type: ignore[index]
    scales = {name: pair for name, pair in plan.kv_scales.items() if block and name.startswith(block)}
    return {
        f"{name}.{letter}_scale": torch.tensor([scale])
        for name, pair in scales.items()
        for letter, scale in zip("kv", pair, strict=True)
    }


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
