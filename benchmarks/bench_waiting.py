"""Measures the cost of waiting OpenMP threads to a solver: SpQR on 1024x2048, with spinning and with sleeping threads.

    python benchmarks/bench_waiting.py [--repeats 3]

Alone, and two processes at a time; interleaved, medians of wall seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from _print import show

_SOLVE = """
import time, torch
from compress.calibration.stats import LayerStats
from compress.methods import spqr
generator = torch.Generator().manual_seed(0)
weight, inputs = torch.randn(1024, 2048, generator=generator), torch.randn(1024, 2048, generator=generator)
stats = LayerStats.empty(2048)
stats.update(inputs)
start = time.perf_counter()
spqr.solve(weight, stats, spqr.Config())
print(time.perf_counter() - start)
"""


def seconds(policy: str, processes: int) -> float:
    """Returns the mean wall seconds of `processes` solves at the same time."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    running = [
        subprocess.Popen([sys.executable, "-c", _SOLVE], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return statistics.mean(float(process.communicate()[0]) for process in running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.repeats):
        for processes in (1, 2):
            for policy in ("", "PASSIVE"):
                found.setdefault((policy, processes), []).append(seconds(policy, processes))
    rows = [
        {"OMP_WAIT_POLICY": policy or "not set", "processes": processes, "median s": statistics.median(times)}
        for (policy, processes), times in found.items()
    ]
    show("waiting threads", rows, cores=os.cpu_count())


if __name__ == "__main__":
    main()
