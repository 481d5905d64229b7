"""Measures time and memory of a data-free method on a random Llama of one billion parameters read from disk.

    python benchmarks/bench_stream_1b.py [--method easyquant] [--workers 2] [--blocks 16] [--folder DIR]

The model is that of `bench_memory_1b.py`. `compress run` works in a process of its own; all processes below it are
sampled every 50 ms: RSS, where what they share counts once for each, and PSS, where it counts once in all. The process
that proves the load is counted apart. The digest is that of all written shards: it is the same for any `--workers`.
Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from _print import show
from bench_memory_1b import make_model

_EVERY = 0.05


@dataclass
class Sampled:
    """Peaks of the sums over some processes."""

    rss: int = 0
    pss: int = 0
    processes: int = 0
    cpu: dict[int, float] = field(default_factory=dict)

    def add(self, members: list[psutil.Process]) -> None:
        rss = pss = 0
        for process in members:
            try:
                memory, times = process.memory_full_info(), process.cpu_times()
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            rss, pss = rss + memory.rss, pss + memory.pss
            self.cpu[process.pid] = times.user + times.system
        self.rss, self.pss = max(self.rss, rss), max(self.pss, pss)
        self.processes = max(self.processes, len(members))


def watch(command: list[str]) -> tuple[Sampled, Sampled, float, float]:
    """Runs the command; returns the samples and the seconds of the run and of the proof."""
    work, proof = Sampled(), Sampled()
    start, proof_start = time.time(), 0.0
    with subprocess.Popen(command, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}) as process:
        top = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                members = [top, *top.children(recursive=True)]
                of_proof = [one for one in members[1:] if "compress.runtime.proof" in one.cmdline()]
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            work.add([one for one in members if one not in of_proof])
            if of_proof:
                proof_start = proof_start or time.time()
                proof.add(of_proof)
            time.sleep(_EVERY)
    if process.returncode:
        sys.exit(process.returncode)
    end = time.time()
    return work, proof, (proof_start or end) - start, end - (proof_start or end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="easyquant")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--max-memory", default="1.5GB")
    parser.add_argument("--folder", help="keep the model here, and take it from here when it is there already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(options.folder or temporary) / f"model-{options.blocks}"
        if not (folder / "model.safetensors.index.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            make_model(folder, options.blocks)
            (folder / "calibration.safetensors").unlink()
        out = Path(temporary) / "out"
        command = [sys.executable, "-m", "compress", "run", "--model", str(folder), "--method", options.method]
        command += ["--workers", str(options.workers), "--max-memory", options.max_memory, "--no-eval", "-o", str(out)]
        work, proof, seconds, proof_seconds = watch(command)
        digest = hashlib.sha256()
        for shard in sorted(out.glob("*.safetensors")):
            with shard.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    show(
        f"{options.method} on a 1B-shaped Llama from disk, {options.workers} workers",
        [
            {"part": name, "seconds": took, "CPU s": sum(found.cpu.values()), "processes": found.processes,
             "RSS GB": found.rss / 1e9, "PSS GB": found.pss / 1e9}
            for name, found, took in (("compress run", work, seconds), ("proof of load", proof, proof_seconds))
        ],
        method=options.method, workers=options.workers, blocks=options.blocks, digest=digest.hexdigest(),
    )  # fmt: skip


if __name__ == "__main__":
    main()
