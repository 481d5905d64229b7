"""Measures time and memory of a whole run on a random Llama of one billion parameters read from disk.

    python benchmarks/bench_stream_1b.py [--method easyquant] [--workers 2] [--blocks 16] [--folder DIR]
                                         [--max-memory 2.5GB] [--evaluate WINDOWS] [--samples 4 --seq-len 128]

The model is that of `bench_memory_1b.py`. `compress run` works in a process of its own; all processes below it are
sampled every 50 ms: RSS, where what they share counts once for each, and PSS, where it counts once in all. The
compression, the proof of load, which has a process of its own beside that of the run, and the evaluation (perplexity
and KL of both models) are told apart. The digest is that of all written shards: it is the same for any
`--workers`. Linux only.
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
_PHASES = ("compression", "proof of load", "evaluation")


@dataclass
class Sampled:
    """Peaks of the sums over all processes of the command in one phase."""

    rss: int = 0
    pss: int = 0
    processes: int = 0
    start: float = 0.0
    end: float = 0.0
    cpu: float = 0.0


@dataclass
class Watcher:
    """Samples the processes below one."""

    phases: dict[str, Sampled] = field(default_factory=dict)
    _cpu: dict[int, float] = field(default_factory=dict)

    def sample(self, members: list[psutil.Process]) -> None:
        rss = pss = 0
        proving = False
        before = sum(self._cpu.values())
        for process in members:
            try:
                memory, times = process.memory_full_info(), process.cpu_times()
                proving |= "compress.runtime.proof" in process.cmdline()
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            rss, pss = rss + memory.rss, pss + memory.pss
            self._cpu[process.pid] = times.user + times.system
        name = _PHASES[1] if proving else _PHASES[2] if _PHASES[1] in self.phases else _PHASES[0]
        now = time.time()
        phase = self.phases.setdefault(name, Sampled(start=now))
        phase.rss, phase.pss, phase.end = max(phase.rss, rss), max(phase.pss, pss), now
        phase.processes = max(phase.processes, len(members))
        phase.cpu += sum(self._cpu.values()) - before


def watch(command: list[str]) -> dict[str, Sampled]:
    """Runs the command; returns the samples by phase."""
    watcher = Watcher()
    with subprocess.Popen(command, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}) as process:
        top = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                members = [top, *top.children(recursive=True)]
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
            watcher.sample(members)
            time.sleep(_EVERY)
    if process.returncode:
        sys.exit(process.returncode)
    return watcher.phases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="easyquant")
    parser.add_argument("--workers", type=int, default=2, help="for a method that needs no data")
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--max-memory", default="1.5GB")
    parser.add_argument("--folder", help="keep the model here, and take it from here when it is there already")
    parser.add_argument("--evaluate", type=int, metavar="WINDOWS", help="evaluate on this many windows of 512 tokens")
    parser.add_argument("--samples", type=int, help="calibration sequences, for a method that needs data")
    parser.add_argument("--seq-len", type=int, default=128)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(options.folder or temporary) / f"model-{options.blocks}"
        if not (folder / "model.safetensors.index.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            make_model(folder, options.blocks)
            (folder / "calibration.safetensors").rename(folder.parent / "calibration.safetensors")
        out = Path(temporary) / "out"
        command = [sys.executable, "-m", "compress", "run", "--model", str(folder), "--method", options.method]
        command += ["--max-memory", options.max_memory, "-o", str(out)]
        command += ["--no-eval"] if options.evaluate is None else ["--limit", str(options.evaluate)]
        if options.samples is None:
            command += ["--workers", str(options.workers)]
        else:
            command += ["--calibration", str(folder.parent / "calibration.safetensors")]
            command += ["--samples", str(options.samples), "--seq-len", str(options.seq_len)]
        phases = watch(command)
        digest = hashlib.sha256()
        for shard in sorted(out.glob("*.safetensors")):
            with shard.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    show(
        f"{options.method} on a 1B-shaped Llama from disk, --max-memory {options.max_memory}",
        [
            {"phase": name, "seconds": found.end - found.start, "CPU s": found.cpu, "processes": found.processes,
             "RSS GB": found.rss / 1e9, "PSS GB": found.pss / 1e9}
            for name, found in phases.items()
        ],
        method=options.method, workers=options.workers, blocks=options.blocks, digest=digest.hexdigest(),
        evaluated=options.evaluate, samples=options.samples, seq_len=options.seq_len,
    )  # fmt: skip


if __name__ == "__main__":
    main()
