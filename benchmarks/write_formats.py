"""Measures formats with activations on a real model, and writes the table of docs/PERFORMANCE.md.

    python benchmarks/write_formats.py MODEL TEXT WORK [--calibration self] [--windows 8] [--only NAME]

MODEL is a dense Hugging Face folder, TEXT held-out text. Every row is a run of its own and a measurement as
`benchmarks/real/measure.py` makes it; rows that WORK holds already are not made again. With `--only` these rows are
made and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import compress
from compress.stages import finish

sys.path.insert(0, str(Path(__file__).parent / "real"))
import measure

DOCUMENT = Path(__file__).parents[1] / "docs/PERFORMANCE.md"
MARKS = ("<!-- formats: benchmarks/write_formats.py -->\n", "<!-- /formats -->\n")
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "W8A8 int8": ("rtn", {"bits": 8, "activations": "int8"}),
    "W8A8 FP8, dynamic": ("rtn", {"grid": "fp8", "activations": "fp8"}),
    "W8A8 FP8, dynamic, KV FP8": ("rtn", {"grid": "fp8", "activations": "fp8", "kv_cache": "fp8"}),
    "W8A8 FP8, static": ("rtn", {"grid": "fp8_tensor", "activations": "fp8_static"}),
    "W4A16 int4 g32": ("rtn", {"bits": 4, "group_size": 32}),
    "W4A16 NVFP4": ("rtn", {"grid": "nvfp4"}),
    "W4A4 NVFP4": ("rtn", {"grid": "nvfp4", "activations": "nvfp4"}),
    "W4A16 MXFP4": ("rtn", {"grid": "mxfp4"}),
    "W4A4 MXFP4": ("rtn", {"grid": "mxfp4", "activations": "mxfp4"}),
}
FOUR_BITS = [name for name in ROWS if name.startswith("W4")]
ALL = ROWS | {f"{name}, gptq": ("gptq", ROWS[name][1]) for name in FOUR_BITS}
SAMPLES, LENGTH = 16, 512


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("model", "text", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--calibration", default="self", help="source of the text that gptq and static scales read")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--only", choices=ALL, action="append")
    parser.add_argument("--table", action="store_true", help="write the table of the rows that there are")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    chosen = [] if options.table else options.only or list(ALL)
    for name in chosen:
        place = options.work / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.json"
        if not place.exists():
            place.write_text(json.dumps({"name": name, **row(name, options)}))
            print(place.read_text(), flush=True)
    if not options.only:
        write([json.loads(path.read_text()) for path in options.work.glob("*.json")])


def row(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of one row. The proof of load, which takes longer than the run, is left to the tests."""
    method, settings = ALL[name]
    folder = options.work / "packed"
    shutil.rmtree(folder, ignore_errors=True)
    finish.prove = lambda *_: None
    result = compress.run(
        str(options.model), method, output=folder, suite="none", calibration=options.calibration,
        samples=SAMPLES, seq_len=LENGTH, embedding_bits=None, head_bits=None, **settings,
    )  # fmt: skip
    bits = result.manifest["bits_per_weight"]
    found = measure.measure(options.model, folder, options.text, options.work / "dense", options.windows, "cpu")
    shutil.rmtree(folder)
    return {"bits": bits, **found}


def write(rows: list[dict[str, Any]]) -> None:
    """Puts the table into the document."""
    by_name = {each["name"]: each for each in rows}
    lines = [
        f"KL divergence from the dense model on {rows[0]['tokens']} tokens of held-out text, in nats a token, with its",
        f"95 % interval; perplexity {rows[0]['dense_perplexity']:.2f} without compression. gptq, and scales of inputs",
        f"that are not found anew for every token, read {SAMPLES} × {LENGTH} tokens.\n",
        "| format | bits per weight | KL, rtn | KL, gptq | perplexity, rtn | perplexity, gptq |",
        "| :-- | --: | --: | --: | --: | --: |",
    ]
    for name in ROWS:
        pair = [by_name.get(name), by_name.get(f"{name}, gptq")]
        if not any(pair):
            continue
        kl = [
            "–" if one is None else f"{one['kl']:.4f} ({one['kl_interval'][0]:.4f} to {one['kl_interval'][1]:.4f})"
            for one in pair
        ]
        perplexity = ["–" if one is None else f"{one['perplexity']:.2f}" for one in pair]
        bits = next(one["bits"] for one in pair if one is not None)
        lines.append(f"| {name} | {bits:.2f} | {' | '.join(kl)} | {' | '.join(perplexity)} |")
    text = DOCUMENT.read_text(encoding="utf-8")
    start, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    DOCUMENT.write_text(text[:start] + "\n" + "\n".join(lines) + "\n\n" + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
