"""bitsandbytes: quantises through transformers, and decodes on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes import functional
from decoded import main
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

KINDS: dict[str, dict[str, Any]] = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-nested": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
}


def make(kind: str, source: str, folder: Path) -> None:
    """Loads the model with this quantisation, and saves it."""
    options = BitsAndBytesConfig(**KINDS[kind])
    AutoModelForCausalLM.from_pretrained(source, quantization_config=options, device_map="cpu").save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def decode(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    """Returns the weights in float32."""
    model, found = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu"), {}
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.weight.quant_state.dtype = torch.float32
            found[name] = functional.dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        elif isinstance(module, bnb.nn.Linear8bitLt):
            scale = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            found[name] = functional.int8_vectorwise_dequant(module.weight.data, scale).float()
    return found


if __name__ == "__main__":
    main(make, decode)
