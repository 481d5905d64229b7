"""Runs `compress bench` for the docs: every shape in float32 and bfloat16, and one thread against aqlm's own kernel.

    python benchmarks/bench_kernels.py [--shape 4096x4096] [--seconds 8] [-o kernels.json] [--plot FILE]

With `-o` cases are added to those that are in the file, so that shapes can be measured one at a time; the same case
again takes the place of the older one. docs/PERFORMANCE.md names the targets for the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from _print import show

from compress.bench import kernels
from compress.report import bench

_KEY = ("shape", "tokens", "dtype", "threads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default=",".join(f"{rows}x{columns}" for rows, columns in kernels.SHAPES))
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--float32", default="1,4,16,512", help="tokens, with commas; empty for none")
    parser.add_argument("--bfloat16", default="1,512", help="tokens, with commas; empty for none")
    parser.add_argument("--one-thread", action="store_true", help="one token of AQLM on one thread, and nothing else")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    asked: dict[str, Any] = {"shapes": kernels.shapes(options.shape), "seconds": options.seconds}
    if options.one_thread:
        torch.set_num_threads(1)
        runs = [kernels.Settings(**asked, tokens=(1,), layouts=("aqlm-2x8", "int4-g128"))]
    else:
        runs = [
            kernels.Settings(**asked, tokens=kernels.counts(tokens), dtype=dtype)
            for dtype, tokens in (("float32", options.float32), ("bfloat16", options.bfloat16))
            if tokens
        ]
    for settings in runs:
        result = kernels.run(settings, lambda text: print(text, file=sys.stderr))
        for case in result["cases"]:
            case["threads"] = result["machine"]["threads"]
        if options.output:
            result = _with_older(result, options.output)
            options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        for case in result["cases"]:
            columns = ("name", "seconds", "gigabytes_per_s", "bandwidth_share")
            rows = [
                {column: row[column] for column in columns} | {"x fp32": row["times_faster"]["float32"]}
                for row in case["rows"]
            ]
            show(f"{case['shape']} {case['tokens']} tokens", rows, dtype=case["dtype"], threads=case["threads"])
        if options.plot:
            bench.plot(result, options.plot)


def _with_older(result: dict[str, Any], path: Path) -> dict[str, Any]:
    if not path.is_file():
        return result
    older = json.loads(path.read_text(encoding="utf-8"))["cases"]
    newer = json.loads(json.dumps(result["cases"]))
    known = [[case[key] for key in _KEY] for case in newer]
    return result | {"cases": [case for case in older if [case[key] for key in _KEY] not in known] + newer}


if __name__ == "__main__":
    main()
