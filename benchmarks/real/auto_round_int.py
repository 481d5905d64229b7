"""Quantises a model folder with AutoRound, and reads the checkpoint back as a dense model.

python auto_round_int.py MODEL TOKENS OUTPUT '{"bits": 3, "group_size": 64, "iterations": 50, "rate": 0.005}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from auto_round import AutoRound
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def main(model: str, tokens: str, output: str, text: str) -> None:
    """Writes the checkpoint `stored` and the dense model `dense` into the output folder."""
    options = json.loads(text)
    tokens_ST = load_file(tokens)["tokens"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    opened = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.enable_grad():
        rounding = AutoRound(
            opened,
            tokenizer,
            bits=options["bits"],
            group_size=options["group_size"],
            sym=True,
            iters=options["iterations"],
            lr=options["rate"],
            dataset=[{"input_ids": row[None]} for row in tokens_ST],
            seqlen=tokens_ST.shape[1],
            nsamples=len(tokens_ST),
            batch_size=8,
            device_map="cpu",
        )
        rounding.quantize_and_save(str(Path(output, "written")), format="auto_round")
    (written,) = Path(output, "written").iterdir()  # it makes a folder of its own, named after the model
    stored = written.rename(Path(output, "stored"))
    for path in stored.glob("*.safetensors"):  # what was not quantised, back to the dtype of the source
        tensors = {name: one.bfloat16() if one.dtype == torch.float32 else one for name, one in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    dense = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    loaded = AutoModelForCausalLM.from_pretrained(str(stored), dtype=torch.float32, device_map="cpu")
    for name, module in loaded.named_modules():
        if hasattr(module, "qweight"):
            columns = dense.get_submodule(name).weight.shape[1]
            dense.get_submodule(name).weight.copy_(module(torch.eye(columns)).T)
    dense.save_pretrained(Path(output, "dense"))
    tokenizer.save_pretrained(Path(output, "dense"))


if __name__ == "__main__":
    main(*sys.argv[1:])
