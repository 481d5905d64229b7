"""Measures AQLM on the fixed layer of the side-by-side figures: W 256x512, 4096 correlated inputs, one thread.

    python benchmarks/bench_aqlm_layer.py [--published FOLDER]

`--published` is a checkout of the published implementation, run beside ours in the same process.
"""

from __future__ import annotations

import argparse
import statistics as averages
import sys
import time
from argparse import Namespace
from collections.abc import Callable

import torch
from _print import show
from bench_spqr_layer import fixed_layer

from compress.calibration.stats import LayerStats
from compress.format import layouts
from compress.methods import aqlm

SCHEMES = (
    ("1x8", {"codebooks": 1}),
    ("2x8", {}),
    ("3x8", {"codebooks": 3}),
    ("4x6", {"codebooks": 4, "code_bits": 6}),
    ("3x5", {"codebooks": 3, "code_bits": 5}),
    ("2x12", {"code_bits": 12, "rounds": 2}),
)
PUBLISHED = {"1x8": 7.98e-2, "2x8": 2.28e-2, "3x8": 7.64e-3, "4x6": 1.20e-2}
"""Relative output errors of the published implementation; 2x8 is its best, with a beam of four."""


def published(folder: str, weight: torch.Tensor, inputs: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Returns a call of the published implementation at 2x8, giving the dense weight."""
    sys.path.insert(0, folder)
    from aq_engine import AQEngine  # type: ignore[import-not-found]

    def run() -> torch.Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(512, 256, bias=False)
        layer.weight.data = weight.clone()
        engine = AQEngine(layer)
        engine.add_batch(inputs[None])
        made = engine.quantize(args=Namespace(
            devices=[torch.device("cpu")], out_group_size=1, in_group_size=8, num_codebooks=2, nbits_per_codebook=8,
            codebook_value_nbits=16, codebook_value_num_groups=1, scale_nbits=0, init_max_iter=100,
            init_max_points_per_centroid=None, lr=1e-4, max_epochs=1000, steps_per_epoch=100,
            relative_mse_tolerance=0.01, print_frequency=1000, beam_size=1))  # fmt: skip
        dense: torch.Tensor = made().detach()
        return dense

    return run


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--published", metavar="FOLDER")
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    weight, columns = fixed_layer()
    inputs = columns.T.contiguous()
    stats = LayerStats.empty(512)
    stats.update(inputs)

    def error(dense: torch.Tensor) -> float:
        wrong = (weight - dense) @ inputs.T
        return float(wrong.square().sum() / (weight @ inputs.T).square().sum())

    rows = []
    for name, options in SCHEMES:
        for lengthen in (0.0, aqlm.Config().lengthen):
            seconds = []
            for _ in range(given.repeat):
                started = time.process_time()
                packed = aqlm.solve(weight, stats, aqlm.Config(**options, lengthen=lengthen))  # type: ignore[arg-type]
                seconds.append(time.process_time() - started)
            rows.append({
                "scheme": name, "lengthen": lengthen, "true bits": round(packed.bits_per_weight, 3),
                "error": error(layouts.unpack(packed)), "CPU s": round(averages.median(seconds), 2),
                "published error": PUBLISHED.get(name),
            })  # fmt: skip
    if given.published:
        run = published(given.published, weight, inputs)
        started = time.process_time()
        dense = run()
        rows.append({
            "scheme": "2x8, published code", "lengthen": None, "true bits": None, "error": error(dense),
            "CPU s": round(time.process_time() - started, 2), "published error": PUBLISHED["2x8"],
        })  # fmt: skip
    show("AQLM on the fixed layer", rows)


if __name__ == "__main__":
    main()
