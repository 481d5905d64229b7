"""`compress doctor`: shows versions, hardware, settings, and which kernels can run on this machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from compress.cli.shared import environment

_LIBRARIES = ("torch", "transformers", "safetensors", "accelerate", "datasets", "lm-eval", "scipy", "click", "rich")
_SETTINGS = (
    environment.KERNEL, environment.ISA, environment.THREADS, environment.BUILD,
    environment.CACHE, environment.METHODS, environment.JUDGE_KEY,
)  # fmt: skip
_SECRET = (environment.JUDGE_KEY,)
"""Settings whose value is never shown."""
_ISA = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd")


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def command(as_json: bool) -> None:
    """Show versions, hardware, and which kernels can run here (or why they cannot)."""
    known = _facts()
    if as_json:
        click.echo(json.dumps(known, indent=2))
        return
    from rich.table import Table

    from compress.report.console import console

    on = console()
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _shown(known).items():
        table.add_row(name, value)
    on.print(table)
    kernels = Table("kernel", "layout", "runs here", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for entry in known["kernels"]:
        kernels.add_row(
            entry["kernel"], entry["layout"], "yes" if entry["reason"] is None else f"no: {entry['reason']}"
        )
    on.print()
    on.print(kernels)


def _facts() -> dict[str, Any]:
    """Returns what is known of this machine, as JSON values; what is missing is None."""
    import torch

    from compress import __version__
    from compress.bench.processor import cores
    from compress.kernels import select
    from compress.kernels.native import loader

    gpu = torch.cuda.is_available()
    memory, free = _memory()
    return {
        "versions": {
            "compress": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _LIBRARIES},
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": cores(),
            "torch_threads": torch.get_num_threads(),
            "cpu_features": _features(),
            "memory_bytes": memory,
            "free_bytes": free,
            "gpu": torch.cuda.get_device_name() if gpu else None,
            "hub_offline": os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
        },
        "native_kernels": _native(loader),
        "settings": {name: _setting(name) for name in _SETTINGS},
        "kernels": [
            {
                "kernel": kernel,
                "layout": layout,
                "reason": None if isinstance(answer, select.Accepted) else answer.reason,
            }
            for kernel, layout, answer in select.table("cuda" if gpu else "cpu")
        ],
    }


def _shown(known: dict[str, Any]) -> dict[str, str]:
    """Returns the lines above the kernels: label -> text."""
    from compress.sizes import format_size

    versions, machine, native = known["versions"], known["machine"], known["native_kernels"]
    others = f"; COMPRESS_ISA may also be {', '.join(native['others'])}" if native["others"] else ""
    offline = "offline (HF_HUB_OFFLINE is set)"
    return {
        "compress": versions["compress"],
        "python": f"{versions['python']} on {machine['system']}",
        **{name: versions[name] or "not installed" for name in _LIBRARIES},
        "cpu": f"{machine['cores']} cores, torch uses {machine['torch_threads']} threads",
        "cpu features": " ".join(machine["cpu_features"]) or "unknown",
        "memory": f"{format_size(machine['memory_bytes'])}, {format_size(machine['free_bytes'])} free",
        "gpu": machine["gpu"] or "none",
        "hub": offline if machine["hub_offline"] else "asked when a hub id is named, otherwise never",
        "native kernels": f"{native['isa']}{others}" if native["isa"] else f"missing: {native['reason']}",
        **{name: value or "not set" for name, value in known["settings"].items()},
    }


def _native(loader: ModuleType) -> dict[str, Any]:
    """Returns the instruction set that the native kernels use, the others that run here, or why there are none."""
    if (reason := loader.unavailable()) is not None:
        return {"isa": None, "others": [], "reason": reason}
    return {"isa": loader.isa(), "others": [name for name in loader.units() if name != loader.isa()], "reason": None}


def _setting(name: str) -> str | None:
    value = os.environ.get(name) or None
    return "set" if value and name in _SECRET else value


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


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
