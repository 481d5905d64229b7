"""A job: linears that one process solves together. It travels to worker processes as one line of JSON."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compress.format import files, naming
from compress.format.packed import PackedTensor
from compress.methods.loading import from_module
from compress.models.linears import LinearRef
from compress.models.stored import StoredWeight, WeightReader
from compress.stages.pack import solve_linear


@dataclass(frozen=True, slots=True)
class Job:
    """Linears to solve, the method and its options, and the file for the result."""

    linears: tuple[StoredWeight, ...]
    """Linears that share an input; all of them where the method decides an option for a whole fused set."""
    method: str
    """Full name of the method's module."""
    configs: tuple[Any, ...]
    """The method's Config of each linear."""
    planes: Path
    """Safetensors file that the planes are written to: results stay on disk, so that no process holds many."""

    def to_json(self) -> str:
        """Returns the job as one line of JSON."""
        data = {
            "linears": [dataclasses.asdict(stored) for stored in self.linears],
            "method": self.method,
            "configs": [dataclasses.asdict(config) for config in self.configs],
            "planes": str(self.planes),
        }
        return json.dumps(data)

    @classmethod
    def from_json(cls, line: str | bytes) -> Job:
        """Returns the job that `to_json` wrote."""
        data = json.loads(line)
        make_config = importlib.import_module(data["method"]).Config
        return cls(
            linears=tuple(_stored(each) for each in data["linears"]),
            method=data["method"],
            configs=tuple(make_config(**each) for each in data["configs"]),
            planes=Path(data["planes"]),
        )


def _stored(data: dict[str, Any]) -> StoredWeight:
    """Returns the linear that `dataclasses.asdict` wrote; JSON has lists for its tuples."""
    ref: dict[str, Any] = {name: _tuples(value) for name, value in data["ref"].items()}
    fields: dict[str, Any] = {name: _tuples(value) for name, value in data.items() if name != "ref"}
    return StoredWeight(ref=LinearRef(**ref), **fields)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def solve(job: Job, reader: WeightReader, device: torch.device) -> dict[str, Any]:
    """Writes the planes of the job's linears, solved on `device`, and returns their manifest entries by name.

    On the CPU it computes with one thread: then the order of the sums, and with it every bit of the result, is the same
    on every machine.
    """
    method = from_module.of_kind_pack(from_module.method_of(importlib.import_module(job.method)))
    weights = {stored.ref.name: partial(_read, reader, stored, device) for stored in job.linears}
    job_configs = dict(zip(weights, job.configs, strict=True))
    packed: dict[str, PackedTensor] = {}
    entries: dict[str, Any] = {}
    with one_thread():
        configs = solve_linear.shared_configs(method, job_configs, weights)
        for stored in job.linears:
            name = stored.ref.name
            packed[name], _, entries[name] = solve_linear.solve(
                method, stored.ref, weights[name](), None, configs[name]
            )
    files.write_tensors(job.planes, naming.plane_tensors(packed))
    return entries


def _read(reader: WeightReader, stored: StoredWeight, device: torch.device) -> torch.Tensor:
    return reader.read(stored).to(device)


@contextmanager
def one_thread() -> Iterator[None]:
    """Has torch compute with one thread while the context is open."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
