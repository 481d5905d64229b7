"""Measures the output error of the integer quantisers on all linears of a model, each with its dense inputs.

    python benchmarks/bench_quantisers.py [--model atlas] [--bits 4]

The error is ‖(W − Ŵ)X‖² / ‖WX‖², the geometric mean over the linears; bits are those stored, outliers included.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from typing import Any

import torch
from _print import show

from compress.calibration import collect
from compress.calibration.data import load_tokens
from compress.format import layouts
from compress.methods import easyquant, finequant, gptq, rtn, spqr
from compress.models import linears
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.recipe import CalibrationSpec

WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rtn": (rtn, {}),
    "rtn, min to max": (rtn, {"symmetric": False}),
    "gptq as published": (gptq, {"act_order": False, "search": False}),
    "gptq, act order": (gptq, {"search": False}),
    "gptq, act order, searched ranges": (gptq, {}),
    "finequant": (finequant, {}),
    "easyquant, no outliers": (easyquant, {"sigma": float("inf")}),
    "easyquant": (easyquant, {}),
    "spqr, groups of 64": (spqr, {"group_size": 64, "threshold": 2.0}),
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="atlas")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--calibration", default="bundled")
    given = parser.parse_args()
    source = ModelSource.open(given.model)
    walker = BlockWalker(source)
    spec = CalibrationSpec(source=given.calibration, samples=64)
    hidden = walker.embed(load_tokens(spec, source.tokenizer(), max_seq_len=walker.max_seq_len))
    errors: dict[str, list[float]] = defaultdict(list)
    size: dict[str, int] = defaultdict(int)
    weights = 0
    for index in range(len(walker.block_names)):
        block = walker.load_block(index)
        refs = walker.linears(index)
        stats = collect.collect(walker, block, refs, hidden, micro_batch=16)
        for ref in refs:
            weight, gram = linears.weight(block, ref), stats[ref.name].gram_KK
            weights += weight.numel()
            whole = ((weight @ gram) * weight).sum()
            for name, (method, options) in WAYS.items():
                packed = method.solve(weight, stats[ref.name], method.Config(bits=given.bits, **options))
                wrong = weight - layouts.unpack(packed)
                errors[name].append(float(((wrong @ gram) * wrong).sum() / whole))
                size[name] += 8 * packed.size_bytes
        hidden = walker.forward(block, hidden, micro_batch=16)
        walker.free_block(block)
    rows = [
        {"method": name, "true bits": size[name] / weights, "output error": statistics.geometric_mean(found)}
        for name, found in errors.items()
    ]
    show(f"Quantisers at {given.bits} bits", rows, model=source.name, linears=len(errors["rtn"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
