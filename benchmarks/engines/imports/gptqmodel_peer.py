"""GPTQModel: decodes GPTQ and AWQ in float16, as its layers compute."""

from __future__ import annotations

from pathlib import Path

import torch
from decoded import main
from gptqmodel import BACKEND, GPTQModel


def make(kind: str, source: str, folder: Path) -> None:
    """Never called: the checkpoint is an export."""
    raise ValueError(f"{folder} does not exist")


@torch.no_grad()
def decode(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    """Returns the weights; where a layer cannot give them, it is asked for its product with the unit matrix."""
    model = GPTQModel.load(str(folder), backend=BACKEND.TORCH, device="cpu", dtype=torch.float16).model
    found = {}
    for name, module in model.named_modules():
        if not hasattr(module, "qweight"):
            continue
        if hasattr(module, "dequantize_weight"):
            found[name] = module.dequantize_weight().half().T
        else:
            found[name] = module(torch.eye(module.in_features, dtype=torch.float16)[None])[0].T
    return found


if __name__ == "__main__":
    main(make, decode)
