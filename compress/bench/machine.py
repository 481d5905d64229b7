"""Describes the machine of a measurement, and measures how fast it reads memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from compress.bench.processor import cores, processor
from compress.bench.timing import CPU
from compress.format.layouts import dense
from compress.kernels import native
from compress.kernels.native import loader
from compress.kernels.native.prepare import block

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20}
_UNKNOWN_CACHE = 64 << 20
"""Size assumed for the last-level cache if the system does not report it."""
_WIDTH = 4096
"""Columns of the matrix that is read to measure the bandwidth."""


def device_name(device: torch.device) -> str:
    """Returns the name of what computes: the processor, or the accelerator as its driver reports it."""
    properties = _properties(device)
    return processor() if properties is None else str(properties.name)


def _properties(device: torch.device) -> Any:
    """Returns what torch knows of an accelerator; None for the CPU and for mps, of which it knows nothing."""
    if device.type not in ("cuda", "xpu"):
        return None
    return getattr(torch, device.type).get_device_properties(device)


def last_level_cache(device: torch.device = CPU) -> int:
    """Returns the bytes of the largest cache that one core, or the whole accelerator, reaches."""
    if device.type != "cpu":
        return getattr(_properties(device), "L2_cache_size", _UNKNOWN_CACHE)
    sizes = [path.read_text(encoding="utf-8").strip() for path in _CACHES.glob("index*/size")]
    known = [int(size[:-1]) * _UNITS[size[-1]] for size in sizes if size[-1:] in _UNITS]
    return max(known, default=_UNKNOWN_CACHE)


def versions(*more: str) -> dict[str, str]:
    """Returns the versions of Python, of torch, of this package, and of the packages in `more` that are installed."""
    versions = {"python": platform.python_version()}
    for name in ("compress-llm", "torch", *more):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def description(device: torch.device = CPU) -> dict[str, object]:
    """Returns the properties of machine and process that speed depends on."""
    return {
        "processor": processor(),
        "device": str(device),
        "device_name": device_name(device),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "last_level_cache_bytes": last_level_cache(device),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "not set"),
        "system": f"{platform.system()} {platform.machine()}",
    }


def readers(size_bytes: int, device: torch.device = CPU) -> list[Callable[[], object]]:
    """Returns calls that read `size_bytes` of the device's memory once; the fastest of them gives the bandwidth.

    They are two reductions of torch and, on the CPU if the native kernels run, their product of a plain bfloat16 matrix
    with a vector, which decodes nothing. All use torch's threads.
    """
    numbers = torch.zeros(size_bytes // 4, dtype=torch.int32).random_(generator=torch.Generator().manual_seed(0))
    numbers = numbers.to(device)
    reals = numbers.float()
    calls: list[Callable[[], object]] = [lambda: torch.dot(reals, reals), lambda: numbers.amax()]
    if device.type == "cpu" and loader.unavailable() is None:
        matrix = torch.ones(size_bytes // 2 // _WIDTH, _WIDTH, dtype=torch.bfloat16)
        operands, x = (torch.empty(*matrix.shape, 0), block(dense.pack(matrix))), torch.ones(1, _WIDTH)
        calls.append(lambda: native.linear(x, operands, None))
    return calls
