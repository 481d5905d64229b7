"""Quantises a model folder with llm-compressor, and reads the checkpoint back as a dense model.

    python llm_compressor.py MODEL TOKENS OUTPUT OPTIONS

OPTIONS is JSON such as '{"method": "GPTQModifier", "bits": 3, "group_size": 64, "symmetric": true}'.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers import quantization
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.quantization_config import CompressedTensorsConfig


def main(model: str, tokens: str, output: str, text: str) -> None:
    """Writes the checkpoint `stored` and the dense model `dense` into the output folder."""
    options, stored = json.loads(text), Path(output, "stored")
    tokens_ST = load_file(tokens)["tokens"]
    weights = {
        "num_bits": options["bits"],
        "type": "int",
        "strategy": "group",
        "group_size": options["group_size"],
        "symmetric": options["symmetric"],
    }
    recipe = getattr(quantization, options["method"])(
        config_groups={"group_0": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"]
    )
    dense = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in tokens_ST.tolist()]
    oneshot(
        model=dense,
        dataset=Dataset.from_list(rows),
        recipe=recipe,
        max_seq_length=tokens_ST.shape[1],
        num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,
    )
    dense.save_pretrained(stored, save_compressed=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.save_pretrained(stored)
    # dequantised in float32, so that no value is rounded on the way back
    loaded = AutoModelForCausalLM.from_pretrained(
        stored, dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False)
    )
    plain = AutoModelForCausalLM.from_config(AutoModelForCausalLM.from_pretrained(model).config, dtype=torch.float32)
    state = loaded.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    plain.save_pretrained(Path(output, "dense"))
    tokenizer.save_pretrained(Path(output, "dense"))


if __name__ == "__main__":
    main(*sys.argv[1:])
