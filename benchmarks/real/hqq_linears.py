"""Quantises the linears of a model folder with HQQ, and writes them back as a dense model.

    python hqq_linears.py MODEL TOKENS OUTPUT '{"bits": 3, "group_size": 64}'

TOKENS is not read: HQQ needs no data.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def main(model: str, tokens: str, output: str, text: str) -> None:
    """Writes the tensors `stored` and the dense model `dense` into the output folder."""
    options, stored = json.loads(text), Path(output, "stored")
    stored.mkdir(parents=True, exist_ok=True)
    dense = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    linears = {name: m for name, m in dense.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"}
    config = BaseQuantizeConfig(nbits=options["bits"], group_size=options["group_size"])
    planes, values = {}, {}
    for name, linear in linears.items():
        quantised = HQQLinear(linear, config, compute_dtype=torch.float32, device="cpu", del_orig=False)
        planes |= {f"{name}.W_q": quantised.W_q.data} | {f"{name}.{p}": quantised.meta[p] for p in ("scale", "zero")}
        values[f"{name}.weight"] = quantised.dequantize().float()
    # HQQ stores scales and zeros in the compute dtype; in deployment that is a 16-bit one
    planes = {name: plane.half() if plane.dtype == torch.float32 else plane for name, plane in planes.items()}
    rest = {
        name: value for name, value in dense.state_dict().items() if name not in values and name != "lm_head.weight"
    }
    save_file({name: value.contiguous() for name, value in (planes | rest).items()}, stored / "model.safetensors")
    whole = dense.float()
    whole.load_state_dict({**whole.state_dict(), **values})
    whole.save_pretrained(Path(output, "dense"))
    AutoTokenizer.from_pretrained(model).save_pretrained(Path(output, "dense"))


if __name__ == "__main__":
    main(*sys.argv[1:])
