"""Measures the Triton kernels and compression on a GPU, checks their results, and prints tables and JSON.

    python benchmarks/bench_gpu.py [--output gpu.json] [--seconds 460] [--device cuda] [--tiny]

(a) Every layout, shapes of a 1B and a 7B Llama, 1, 16 and 512 tokens: the decoded weight against `layouts.unpack` bit
for bit, the product against float64, the speed against torch's dense product (cuBLAS) of the same dtype.
(b) A random Llama of the 1B and of the 7B shape, of a few blocks, packed by the real pipeline: seconds and peak GPU
memory of each block, the proof of load, planes decoded on the GPU against the CPU, logits of the loaded model.

Each part is a process of its own with a limit of time, and sends its rows as it goes: a part that fails or hangs costs
its own rows, and its traceback stands in the JSON. Kernels are compiled by several processes before any is timed.
Times of whole models are extrapolated from the blocks that ran, which the JSON names. `--device cpu --tiny` tries all
of it with Triton's interpreter, in about two minutes; such times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _print import show

_PARTS = Path(__file__).parent / "_gpu_parts.py"
_LEAST_SECONDS = 15
"""A part is not started with less than this left."""
_KERNELS_SHARE = 0.5
"""Largest share of the time that kernels may take, with their compilation."""
_RUNS = (
    ("1b", "gptq"), ("7b", "gptq"), ("7b", "spqr"), ("7b", "rtn"), ("1b", "spqr"), ("1b", "rtn"), ("7b", "aqlm"),
    ("1b", "aqlm"),
)  # fmt: skip


class Record:
    """What was measured so far; written to the file after every row."""

    def __init__(self, output: Path | None, seconds: float, context: dict[str, Any]) -> None:
        self._output, self._end, self._lock = output, time.monotonic() + seconds, threading.Lock()
        self.content: dict[str, Any] = {**context, "environment": {}, "rows": [], "parts": []}

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def add(self, list_name: str, entry: dict[str, Any]) -> None:
        """Adds an entry, prints it in short and writes the file."""
        with self._lock:
            if entry.get("kind") == "environment":
                self.content["environment"] = entry
            else:
                self.content[list_name].append(entry)
            print(f"[{self.left:4.0f} s left] {json.dumps(entry)[:400]}", file=sys.stderr, flush=True)
            if self._output:
                partial = self._output.with_name(self._output.name + ".part")
                partial.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
                partial.replace(self._output)


def part(record: Record, arguments: dict[str, Any], limit: float, environment: dict[str, str]) -> None:
    """Runs one part in a process of its own and adds its rows as they come; it is killed at its limit of seconds."""
    name = " ".join(str(arguments[key]) for key in ("part", "model", "method", "layout") if key in arguments)
    limit = min(limit, record.left)
    if limit < _LEAST_SECONDS:
        record.add("parts", {"part": name, "ended": "not started: no time left"})
        return
    start = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, str(_PARTS), json.dumps(arguments)], stdout=subprocess.PIPE, stderr=errors, text=True,
            env=environment, start_new_session=True,
        )  # fmt: skip
        stop = threading.Timer(limit, os.killpg, (process.pid, 9))
        stop.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                record.add("rows", json.loads(line))
        code = process.wait()
        stop.cancel()
        errors.seek(0)
        trace = errors.read()[-6000:]
    ended = "killed at its limit" if code == -9 else "done" if code == 0 else f"failed with code {code}"
    entry = {"part": name, "ended": ended, "seconds": round(time.monotonic() - start, 1)}
    record.add("parts", entry | ({} if code == 0 else {"traceback": trace}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--seconds", type=float, default=460.0, help="of everything together")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to try the benchmark")
    parser.add_argument("--blocks", type=int, default=2, help="blocks of each random model")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 1) - 2), help="that compile kernels")
    parser.add_argument("--only", choices=("kernels", "compress"))
    options = parser.parse_args()
    record = Record(options.output, options.seconds, {"device": options.device, "tiny": options.tiny})
    with tempfile.TemporaryDirectory() as work:
        top = str(_PARTS.parent.parent)
        path = os.pathsep.join([top, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        environment = os.environ | {
            "TRITON_CACHE_DIR": f"{work}/triton",
            "PYTHONPATH": path,
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        common = {"device": options.device, "tiny": options.tiny, "work": work, "blocks": options.blocks}
        part(record, {**common, "part": "environment"}, 60, environment)
        kernels_limit = options.seconds * (1.0 if options.only == "kernels" else _KERNELS_SHARE)
        if options.only != "compress":
            kernels(record, common, kernels_limit, environment, options.processes)
        if options.only != "kernels":
            compression(record, common, environment)
    tables(record.content)
    print(json.dumps({"benchmark": "gpu", **record.content}))


def kernels(record: Record, common: dict[str, Any], limit: float, environment: dict[str, str], processes: int) -> None:
    """Compiles the kernels of all layouts side by side, then times them one after another."""
    end = time.monotonic() + limit
    interpreted = {"TRITON_INTERPRET": "1"} if common["device"] == "cpu" else {}
    names = ["int4-g128"] if common["tiny"] else [*_layouts()]
    if not interpreted:
        alone = environment | {"OMP_NUM_THREADS": "1"}
        with ThreadPoolExecutor(processes) as pool:
            for size in ("1b", "7b"):
                for name in names:
                    asked = {**common, "part": "compile", "layout": name, "model": size}
                    pool.submit(part, record, asked, limit / 2, alone)
    asked = {**common, "part": "kernels", "layouts": names, "seconds": max(0.0, end - time.monotonic())}
    part(record, asked, end - time.monotonic() + _LEAST_SECONDS, environment | interpreted)


def _layouts() -> tuple[str, ...]:
    """Returns the names in `compress.bench.planes.LAYOUTS`, the most used first; torch stays out of this process."""
    return ("int4-g128", "spqr-3bit", "aqlm-2x8", "int3-g64", "int8-g128", "int4-g128-delta", "sparse-2:4",
            "low-rank", "int2-g64", "aqlm-1x16", "sparse-2:4-int4")  # fmt: skip


def compression(record: Record, common: dict[str, Any], environment: dict[str, str]) -> None:
    """Makes the models and packs each with every method."""
    for model in ("1b", "7b"):
        part(record, {**common, "part": "model", "model": model}, 60, environment)
    for number, (model, method) in enumerate(_RUNS):
        # what an earlier run did not use is for the later ones
        limit = max(_LEAST_SECONDS, 3 * record.left / (len(_RUNS) - number))
        part(record, {**common, "part": "compress", "model": model, "method": method}, limit, environment)


def tables(content: dict[str, Any]) -> None:
    """Prints what was measured, and what failed."""
    for kind in ("kernel", "compress", "block", "load"):
        rows = [row for row in content["rows"] if row["kind"] == kind]
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row if key != "kind"))
            show(kind, [{column: row.get(column, "") for column in columns} for row in rows])
    show("parts", [{key: each.get(key, "") for key in ("part", "ended", "seconds")} for each in content["parts"]])


if __name__ == "__main__":
    main()
