"""Measures tokens per second of several checkpoints side by side: ours in our runtime, GGUF files in llama.cpp.

Every checkpoint has its own process; in each round every process generates once, in random order; medians count.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
PROMPT, NEW, ROUNDS = 128, 33, 5


def measure(folders: Mapping[str, Path], engine: Path, threads: int) -> dict[str, dict[str, float]]:
    """Returns prefill and decoding speed in tokens per second by name.

    Args:
        folders: folder by name: one of ours, a dense one (both in float32), or one that holds `model.gguf`.
        engine: the Python that has xllamacpp.
        threads: number of threads of each process.
    """
    processes = {name: _start(folder, engine, threads) for name, folder in folders.items()}
    for process in processes.values():
        _answer(process)
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    order = random.Random(0)
    for _ in range(ROUNDS):
        for name in order.sample(list(processes), len(processes)):
            assert processes[name].stdin
            print("round", file=processes[name].stdin, flush=True)
            seconds[name].append(_answer(processes[name]))
    for process in processes.values():
        process.kill()
    return {
        name: {
            "prefill": PROMPT / median(row["prefill_seconds"] for row in rows),
            "decode": (NEW - 1) / median(row["decode_seconds"] for row in rows),
        }
        for name, rows in seconds.items()
    }


def _start(folder: Path, engine: Path, threads: int) -> subprocess.Popen[str]:
    options: dict[str, Any] = {"prompt_tokens": PROMPT, "new_tokens": NEW, "threads": threads}
    if (file := folder / "model.gguf").exists():
        command = [str(engine), str(HERE / "llama_cpp_speed.py"), json.dumps({**options, "file": str(file)})]
    else:
        options |= {"folder": str(folder), "dtype": "float32", "device": "cpu"}
        command = [sys.executable, "-m", "compress.bench.worker", json.dumps(options)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    for line in process.stdout:
        if line.startswith("{"):
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return answer
    raise RuntimeError(f"{process.args} ended without an answer")
