"""GPTQModel: quantises with act-order itself, and decodes GPTQ and AWQ in float16, as its layers compute."""

from __future__ import annotations

from pathlib import Path

import torch
from decoded import main
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig


def make(kind: str, source: str, folder: Path) -> None:
    """Quantises with act-order to 4 bits in groups of 64, on random tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 40000, (64,), generator=generator).tolist() for _ in range(8)]
    opened = GPTQModel.load(
        source, QuantizeConfig(bits=4, group_size=64, desc_act=True, act_group_aware=False), device="cpu"
    )
    opened.quantize([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows], batch_size=1)
    opened.save(str(folder))


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
