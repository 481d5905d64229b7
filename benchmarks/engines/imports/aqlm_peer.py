"""aqlm: decodes with the function that its own layers use."""

from __future__ import annotations

from pathlib import Path

import torch
from aqlm.utils import _dequantize_weight, unpack_int_data
from decoded import main, tensors_of


def make(kind: str, source: str, folder: Path) -> None:
    """Never called: the checkpoint is an export."""
    raise ValueError(f"{folder} does not exist")


def decode(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    """Returns the weights in float32."""
    tensors, found = tensors_of(folder), {}
    for name in [name.removesuffix(".codebooks") for name in tensors if name.endswith(".codebooks")]:
        books = tensors[f"{name}.codebooks"].float()
        codes = unpack_int_data(tensors[f"{name}.codes"], books.shape[1].bit_length() - 1)
        found[name] = _dequantize_weight(codes, books, tensors[f"{name}.scales"].float())
    return found


if __name__ == "__main__":
    main(make, decode)
