"""Compares the loss of llm-compressor's quantisers and ours at equal bits: same calibration, items and text.

    pip install llmcompressor compressed-tensors      # in an environment of its own: it wants an older transformers
    python benchmarks/bench_peers.py [--model atlas] [--samples 128] [-o runs/peers]

Every result is a checkpoint on disk that is read back: theirs as compressed-tensors decompresses it, ours through our
kernels. Bits count all bytes of the linears in the safetensors files.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from _print import show
from safetensors import safe_open

import compress
from compress.calibration.data import load_tokens
from compress.evaluation import compare, evaluate
from compress.evaluation.result import EvalResult
from compress.models.source import ModelSource
from compress.recipe import CalibrationSpec

GROUPS = {"type": "int", "strategy": "group", "group_size": 128}
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "round to nearest, 4 bits g128": ("QuantizationModifier", {"num_bits": 4, "symmetric": True}),
    "GPTQ, 4 bits g128": ("GPTQModifier", {"num_bits": 4, "symmetric": True}),
    "GPTQ, 3 bits g128": ("GPTQModifier", {"num_bits": 3, "symmetric": True}),
    "GPTQ, 2 bits g128": ("GPTQModifier", {"num_bits": 2, "symmetric": False}),
}
OURS: dict[str, dict[str, Any]] = {
    "round to nearest, 4 bits g128": {"method": "rtn", "bits": 4, "group_size": 128},
    "EasyQuant, 4 bits g128, no data": {"method": "easyquant", "bits": 4, "group_size": 128},
    "GPTQ, 4 bits g128": {"method": "gptq", "bits": 4, "group_size": 128},
    "SpQR, 3 bits g16": {"method": "spqr"},
    "GPTQ, 3 bits g128": {"method": "gptq", "bits": 3, "group_size": 128},
    "SpQR, at most 3.2 bits": {"method": "spqr", "target_bits": 3.2},
    "GPTQ, 2 bits g128": {"method": "gptq", "bits": 2, "group_size": 128, "symmetric": False},
    "AQLM, 3 codebooks of 5 bits": {"method": "aqlm", "codebooks": 3, "code_bits": 5},
    "the same, tuned": {"method": "aqlm", "codebooks": 3, "code_bits": 5, "tune": "full"},
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="atlas")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/peers"))
    given = parser.parse_args()
    if importlib.util.find_spec("llmcompressor") is None:
        print("llm-compressor is not installed: nothing to compare with")
        return
    logging.disable(logging.WARNING)
    calibration = CalibrationSpec(samples=given.samples)
    source = ModelSource.open(given.model)
    tokens_ST = load_tokens(calibration, source.tokenizer(), max_seq_len=calibration.seq_len)
    dense = evaluate(given.model)
    rows = []
    for name, (modifier, weights) in THEIRS.items():
        folder, started = given.output / "theirs", time.process_time()
        by_llm_compressor(given.model, modifier, {**GROUPS, **weights}, tokens_ST, folder)
        seconds = time.process_time() - started
        rows.append(row("llm-compressor", name, given.model, folder, decompressed(folder), dense, seconds))
    for name, options in OURS.items():
        folder, started = given.output / "ours", time.process_time()
        shutil.rmtree(folder, ignore_errors=True)
        compress.run(given.model, output=folder, suite="none", samples=given.samples, **options)
        seconds = time.process_time() - started
        rows.append(row("compress", name, given.model, folder, folder, dense, seconds))
    show("quality of quantisers, same model, calibration and items", rows, model=given.model, samples=given.samples)


def row(
    project: str, name: str, model: str, stored: Path, readable: Path, dense: EvalResult, seconds: float
) -> dict[str, Any]:
    """Size of one checkpoint: `stored` is the shipped form, `readable` the form that can be evaluated."""
    result = evaluate(readable, baseline=dense, reference=model)
    assert result.divergence is not None
    lost = compare(dense, result).families
    return {
        "project": project,
        "method": name,
        "bits": stored_bits(stored, model),
        "KL": result.divergence.mean,
        "same top-1": result.divergence.same_top1,
        "factoid": 100 * lost["factoid"].difference,
        "all families": 100 * statistics.fmean(family.difference for family in lost.values()),
        "CPU s": seconds,
    }


def by_llm_compressor(name: str, modifier: str, weights: dict[str, Any], tokens_ST: torch.Tensor, folder: Path) -> None:
    """Writes the checkpoint that llm-compressor makes of a model."""
    from datasets import Dataset  # type: ignore[import-untyped]
    from llmcompressor import oneshot
    from llmcompressor.modifiers import quantization
    from transformers import AutoModelForCausalLM

    recipe = getattr(quantization, modifier)(
        config_groups={"group_0": {"targets": ["Linear"], "weights": weights}}, ignore=["lm_head"]
    )
    source = ModelSource.open(name)
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.bfloat16)
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in tokens_ST.tolist()]
    oneshot(
        model=model,
        dataset=Dataset.from_list(rows),
        recipe=recipe,
        max_seq_length=tokens_ST.shape[1],
        num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,
    )
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, save_compressed=True)
    source.tokenizer().save_pretrained(folder)


def decompressed(folder: Path) -> Path:
    """Returns a dense float32 copy of a compressed-tensors checkpoint."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

    config = CompressedTensorsConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.float32)
    target = folder.with_name(f"{folder.name}-dense")
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)
    return target


def stored_bits(folder: Path, model: str) -> float:
    """Bits per weight of the linears of the blocks, from the bytes in the files."""
    dense = _linear_sizes(ModelSource.open(model).path)
    return 8 * sum(size for size, _ in _linear_sizes(folder)) / sum(count for _, count in dense)


def _linear_sizes(folder: Path) -> list[tuple[int, int]]:
    sizes = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found = [tensors.get_tensor(key) for key in tensors.keys() if "_proj." in key]  # noqa: SIM118
        sizes += [(tensor.numel() * tensor.element_size(), tensor.numel()) for tensor in found]
    return sizes


if __name__ == "__main__":
    main()
