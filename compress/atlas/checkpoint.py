"""Training state on disk: one safetensors file (weights and optimizer) and one JSON file, renamed into place."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

TENSORS, STATE = "state.safetensors", "state.json"


def save(
    folder: Path, step: int, recipe: dict[str, Any], masters: dict[str, torch.Tensor], optimizers: Sequence[Any]
) -> None:
    """Writes the state after `step` steps. A kill in between leaves the state before it."""
    tensors = {f"master/{name}": value.detach().contiguous() for name, value in masters.items()}
    for index, optimizer in enumerate(optimizers):
        for parameter, entries in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{parameter}/{key}": value.contiguous() for key, value in entries.items()}
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{step:06d}.{TENSORS}"
    save_file(tensors, folder / f"{name}.partial")
    os.replace(folder / f"{name}.partial", folder / name)
    partial = folder / f"{STATE}.partial"
    partial.write_text(json.dumps({"step": step, "tensors": name, "recipe": recipe}, indent=1))
    os.replace(partial, folder / STATE)
    for old in folder.glob(f"*.{TENSORS}"):
        if old.name != name:
            old.unlink()


def restore(folder: Path, recipe: dict[str, Any], masters: dict[str, torch.Tensor], optimizers: Sequence[Any]) -> int:
    """Loads the state into `masters` and `optimizers` and returns its step; 0 when there is no state."""
    if not (folder / STATE).exists():
        return 0
    state = json.loads((folder / STATE).read_text())
    if state["recipe"] != recipe:
        raise ValueError(f"{folder} holds a run of another recipe ({state['recipe']}); choose another --work-dir")
    tensors = load_file(folder / state["tensors"])
    with torch.no_grad():
        for name, value in masters.items():
            value.copy_(tensors[f"master/{name}"])
    for index, optimizer in enumerate(optimizers):
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            parts = key.split("/")
            if parts[0] == "optimizer" and int(parts[1]) == index:
                entries.setdefault(int(parts[2]), {})[parts[3]] = value
        loaded = optimizer.state_dict()
        loaded["state"] = entries
        optimizer.load_state_dict(loaded)
    return int(state["step"])
