"""Quantises a model folder with GPTQModel, and reads the checkpoint back as a dense model.

python gptq_model.py MODEL TOKENS OUTPUT '{"bits": 3, "group_size": 64}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def main(model: str, tokens: str, output: str, text: str) -> None:
    """Writes the checkpoint `stored` and the dense model `dense` into the output folder."""
    options, stored = json.loads(text), str(Path(output, "stored"))
    rows = load_file(tokens)["tokens"].tolist()
    opened = GPTQModel.load(model, QuantizeConfig(bits=options["bits"], group_size=options["group_size"]), device="cpu")
    opened.quantize([{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows], batch_size=1)
    opened.save(stored)
    loaded = GPTQModel.load(stored, device="cpu", backend=BACKEND.GPTQ_TORCH)
    dense = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for name, module in loaded.model.named_modules():
        if hasattr(module, "dequantize_weight"):
            dense.get_submodule(name).weight.copy_(module.dequantize_weight().T.float())
    dense.save_pretrained(Path(output, "dense"))
    AutoTokenizer.from_pretrained(model).save_pretrained(Path(output, "dense"))


if __name__ == "__main__":
    main(*sys.argv[1:])
