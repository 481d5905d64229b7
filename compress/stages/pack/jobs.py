"""A job: linears that one process solves in one go. What comes back lies in a file, so that no process holds many."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from compress.format import files, naming
from compress.format.packed import PackedTensor
from compress.methods import protocol
from compress.models.stored import StoredWeight, WeightReader
from compress.stages.pack import solve_linear


@dataclass(frozen=True, slots=True)
class Job:
    """Plain values, which another process can be sent."""

    linears: tuple[StoredWeight, ...]
    """Linears that share an input, all of them where the method decides for a whole set."""
    method: str
    """Full name of the method's module."""
    configs: tuple[Any, ...]
    """The method's Config of each linear."""
    planes: Path
    """File that the planes are written to."""


def solve(job: Job, reader: WeightReader) -> dict[str, Any]:
    """Writes the planes of the job's linears and returns their manifest entries by name.

    One thread computes: the order of its sums, and with it every bit of the result, does not depend on the machine.
    """
    method = protocol.of_kind_pack(protocol.method_of(importlib.import_module(job.method)))
    weights = {stored.ref.name: partial(reader.read, stored) for stored in job.linears}
    given = dict(zip(weights, job.configs, strict=True))
    packed: dict[str, PackedTensor] = {}
    entries: dict[str, Any] = {}
    with one_thread():
        configs = solve_linear.shared_configs(method, given, weights)
        for stored in job.linears:
            name = stored.ref.name
            packed[name], _, entries[name] = solve_linear.solve(
                method, stored.ref, weights[name](), None, configs[name]
            )
    files.write_tensors(job.planes, naming.plane_tensors(packed))
    return entries


@contextmanager
def one_thread() -> Iterator[None]:
    """While open, torch computes with one thread."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
