"""Selects the kernel for a packed tensor and gives the reason for each rejection. A forced kernel is used or an error.

A kernel is a module `compress.kernels.<name>` with
    reject(scheme, shape, device) -> str | None       why it cannot run such a tensor there, or None
    prepare(packed, dtype) -> tuple[Tensor, ...]      its own form of the planes for inputs of `dtype`; never saved
    linear(x, operands, bias) -> Tensor               the product; operands are what `prepare` returned
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch

from compress.errors import CompressError, unknown
from compress.format.scheme import Scheme

KERNELS = ("native", "triton", "reference")
"""By preference: the first that accepts runs."""
COMPACT = frozenset({"native", "triton"})
"""Kernels whose own form of the planes takes about the bytes of the planes, where others decode the weight."""
FORCE = "COMPRESS_KERNEL"
"""Environment variable that forces one kernel."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The kernel can run the tensor."""

    kernel: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """No requested kernel can run the tensor."""

    reason: str


def ask(kernel: str, scheme: Scheme, shape: tuple[int, int], device: torch.device) -> Accepted | Rejected:
    """Returns the answer of one kernel for a tensor of `scheme` and `shape` on `device`."""
    if kernel not in KERNELS:
        return Rejected(unknown("kernel", kernel, KERNELS))
    if not _exists(kernel):
        return Rejected(f"this version of the package has no {kernel} kernel")
    reason = load(kernel).reject(scheme, shape, device)
    return Rejected(reason) if reason else Accepted(kernel)


def select(scheme: Scheme, shape: tuple[int, int], device: torch.device | str) -> Accepted | Rejected:
    """Returns the kernel that runs such a tensor: the one that COMPRESS_KERNEL names, else the first that accepts."""
    device = torch.device(device)
    if forced := os.environ.get(FORCE):
        return ask(forced, scheme, shape, device)
    answers = [ask(kernel, scheme, shape, device) for kernel in KERNELS]
    return next((answer for answer in answers if isinstance(answer, Accepted)), answers[-1])


def require(scheme: Scheme, shape: tuple[int, int], device: torch.device | str) -> ModuleType:
    """Returns the module of the selected kernel; a rejection is a CompressError with the reason."""
    answer = select(scheme, shape, device)
    if isinstance(answer, Accepted):
        return load(answer.kernel)
    forced = os.environ.get(FORCE)
    raise CompressError(
        f"{FORCE}={forced} cannot run {scheme.layout} on {device}: {answer.reason}" if forced else answer.reason,
        allowed=", ".join(KERNELS),
        do=f"Unset {FORCE} to use the fastest suitable kernel" if forced else None,
    )


@cache
def load(kernel: str) -> ModuleType:
    """Imports a kernel by name."""
    return importlib.import_module(f"compress.kernels.{kernel}")


@cache
def _exists(kernel: str) -> bool:
    return importlib.util.find_spec(f"compress.kernels.{kernel}") is not None


def table(device: torch.device | str = "cpu") -> Iterator[tuple[str, str, Accepted | Rejected]]:
    """Yields (kernel, layout, answer) for a middling 4-bit tensor of each layout: what `compress doctor` prints."""
    for kernel in KERNELS:
        for scheme in _EXAMPLES:
            yield kernel, scheme.layout, ask(kernel, scheme, (4096, 4096), torch.device(device))


_EXAMPLES = (
    Scheme(layout="int_group.v1", bits=4, group_size=128, options={"symmetric": False, "scale_dtype": "float16"}),
    Scheme(
        layout="spqr.v1",
        bits=3,
        group_size=16,
        options={"stats_bits": 3, "stats_group": 16, "exponent": 0, "permuted": True},
    ),
    Scheme(layout="additive.v1", bits=8, group_size=8, options={"codebooks": 2, "scale_dtype": "float16"}),
    Scheme(
        layout="float_group.v1",
        bits=4,
        group_size=16,
        options={"element": "e2m1", "scale_dtype": "e4m3", "per_tensor": False, "global_scale": True},
    ),
    Scheme(layout="super_block.v1", bits=4, group_size=32, options={"symmetric": False}),
    Scheme(
        layout="low_rank.v1",
        bits=16,
        group_size=4096,
        options={
            "rank": 1024,
            "left": {"layout": "dense.v1", "bits": 16, "group_size": 1024, "options": {"dtype": "bfloat16"}},
            "right": {"layout": "dense.v1", "bits": 16, "group_size": 4096, "options": {"dtype": "bfloat16"}},
        },
    ),
    Scheme(
        layout="sparse_nm.v1",
        bits=16,
        group_size=4096,
        options={
            "n": 2,
            "m": 4,
            "slorb": 0,
            "values": {"layout": "dense.v1", "bits": 16, "group_size": 2048, "options": {"dtype": "bfloat16"}},
        },
    ),
)
