"""The packed tensors of a checkpoint: the entries of its linears alone, and a model with all decoded weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compress.format import layouts
from compress.format.reader import open_checkpoint
from compress.models.linears import find_linears, set_weight


def linears(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of the packed linears of the blocks, by name."""
    return {name: entry for name, entry in manifest["tensors"].items() if "role" not in entry}


def put_decoded(model: Any, folder: Path) -> Any:
    """Returns the dense model, changed in place: every weight that the folder has packed is the one it decodes to."""
    checkpoint = open_checkpoint(folder)
    packed = set(checkpoint.manifest["tensors"])
    for ref in find_linears(model, ""):
        if ref.name in packed:
            packed.remove(ref.name)
            set_weight(model, ref, layouts.unpack(checkpoint.packed(ref.name)))
    with torch.no_grad():
        for name in packed:  # the embedding
            model.get_parameter(f"{name}.weight").copy_(layouts.unpack(checkpoint.packed(name)))
    return model
