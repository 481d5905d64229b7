"""Finds the device that a command computes on: `auto`, `cpu`, `cuda`, `cuda:N`, `xpu` or `mps`. Imports torch late."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from compress.errors import RecipeError

if TYPE_CHECKING:
    import torch

ALLOWED = "auto, cpu, cuda, cuda:N, xpu or mps"
_NAME = re.compile(r"auto|cpu|(cuda|xpu)(:\d+)?|mps")
_ORDER = ("cuda", "xpu", "mps")
"""Accelerators that `auto` takes, the first that is there."""


def check(name: str) -> None:
    """Raises RecipeError for a text that names no kind of device; whether there is one, only `resolve` knows."""
    if not _NAME.fullmatch(name):
        raise RecipeError(f"device={name!r}", allowed=ALLOWED)


def resolve(name: str = "auto") -> torch.device:
    """Returns the device; `auto` is the first of cuda, xpu and mps that torch can use, else the CPU.

    Raises:
        RecipeError: the text names no device, or torch cannot use one of this kind here.
    """
    import torch

    check(name)
    if name == "auto":
        return torch.device(next((kind for kind in _ORDER if _count(kind)), "cpu"))
    device = torch.device(name)
    if device.type == "cpu":
        return device
    count = _count(device.type)
    if not count:
        built = device.type != "cuda" or torch.version.cuda is not None
        why = "finds none" if built else "is built without it"
        raise RecipeError(
            f"device={name!r}, but torch {torch.__version__} {why}",
            allowed=", ".join(["auto", "cpu", *(kind for kind in _ORDER if _count(kind))]),
            do=f"Install a torch with {device.type} and its driver, or use --device cpu",
        )
    if device.index is not None and device.index >= count:
        raise RecipeError(f"device={name!r}", allowed=", ".join(f"{device.type}:{index}" for index in range(count)))
    return device


def synchronise(device: torch.device) -> None:
    """Waits until the device has computed everything that it was given; the CPU has, when a call returns."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _count(kind: str) -> int:
    """Returns how many devices of a kind torch can use."""
    import torch

    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = torch.cuda if kind == "cuda" else torch.xpu
    return module.device_count() if module.is_available() else 0
