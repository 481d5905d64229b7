"""Keeps calibration tokens in a file, with a key that says what they were made from and a record for the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.json_files import parse

if TYPE_CHECKING:
    import torch

PREFIX = "calibration"
"""Begins the name of every such file in the work folder of a run."""


def path_in(work: Path, batch: int | None = None) -> Path:
    """Returns the file of a run's tokens, or of one batch of those that the model writes."""
    return work / (f"{PREFIX}.safetensors" if batch is None else f"{PREFIX}-{batch:03d}.safetensors")


def keep(path: Path, key: str, tokens_ST: torch.Tensor, record: dict[str, Any]) -> None:
    """Writes tokens, int64 [S, T], whole or not at all."""
    from safetensors.torch import save_file

    partial = path.with_suffix(".partial")
    save_file({"tokens": tokens_ST.contiguous()}, partial, metadata={"key": key, "record": json.dumps(record)})
    partial.replace(path)


def kept(path: Path, key: str) -> tuple[torch.Tensor, dict[str, Any]] | None:
    """Returns the tokens under a key with their record; None where there is no file, or one of another key."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            return file.get_tensor("tokens"), parse(metadata["record"])
    except (SafetensorError, OSError, KeyError, ValueError):  # a damaged file is made again
        return None
