"""`compress doctor`: shows versions, hardware, settings, and which kernels can run on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from types import ModuleType

import click

_LIBRARIES = ("torch", "transformers", "safetensors", "accelerate", "datasets", "lm-eval", "scipy", "click", "rich")
_SETTINGS = (
    "COMPRESS_KERNEL", "COMPRESS_ISA", "COMPRESS_THREADS", "COMPRESS_BUILD_NATIVE",
    "COMPRESS_CACHE", "COMPRESS_METHODS", "COMPRESS_JUDGE_KEY",
)  # fmt: skip
_SECRET = ("COMPRESS_JUDGE_KEY",)
"""Settings whose value is never shown."""
_ISA = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd")


@click.command("doctor")
def command() -> None:
    """Show versions, hardware, and which kernels can run here (or why they cannot)."""
    import torch
    from rich.table import Table

    from compress import __version__
    from compress.kernels import select
    from compress.kernels.native import loader
    from compress.report.console import console
    from compress.sizes import format_size

    memory, free = _memory()
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    facts = {
        "compress": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        **{name: _version(name) for name in _LIBRARIES},
        "cpu": f"{len(os.sched_getaffinity(0))} cores, torch uses {torch.get_num_threads()} threads",
        "cpu features": " ".join(_features()) or "unknown",
        "memory": f"{format_size(memory)}, {format_size(free)} free",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "hub": "offline (HF_HUB_OFFLINE is set)" if offline else "asked when a hub id is named, otherwise never",
        "native kernels": f"missing: {reason}" if (reason := loader.unavailable()) else _units(loader),
        **{name: _setting(name) for name in _SETTINGS},
    }
    on = console()
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts.items():
        table.add_row(name, value)
    on.print(table)
    kernels = Table("kernel", "layout", "runs here", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for kernel, layout, answer in select.table(device):
        kernels.add_row(kernel, layout, "yes" if isinstance(answer, select.Accepted) else f"no: {answer.reason}")
    on.print()
    on.print(kernels)


def _units(loader: ModuleType) -> str:
    """Returns the instruction set that the native kernels use, and the others that run here."""
    others = ", ".join(name for name in loader.units() if name != loader.isa())
    return f"{loader.isa()}; {loader.ISA} may also be {others}" if others else loader.isa()


def _setting(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        return "not set"
    return "set" if name in _SECRET else value


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _features() -> list[str]:
    """Returns the instruction sets that matter to the kernels and that the system reports."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return []
    return [name for name in _ISA if name in words]


def _memory() -> tuple[int, int]:
    """Returns the bytes of memory there are, and that are free."""
    page = os.sysconf("SC_PAGE_SIZE")
    return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
