"""Kills a run at random moments (`kill -9`) and resumes it: the result must be byte-identical to an unbroken run.

python benchmarks/bench_kill_resume.py [--model atlas] [--kills 10] [--method spqr]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _print import show


def digest(folder: Path) -> str:
    """Returns one hash over the names and bytes of all files of a finished folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="atlas")
    parser.add_argument("--method", default="spqr")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "out"
        command = [sys.executable, "-m", "compress", "run", "--model", options.model, "--method", options.method]
        command += ["--no-eval", "-o", str(out)]
        start = time.time()
        subprocess.run(command, check=True, capture_output=True)
        whole_seconds, expected = time.time() - start, digest(out)
        rows = []
        for number in range(options.kills):
            shutil.rmtree(out)
            moment = chance.uniform(0.1, 0.95) * whole_seconds
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(moment)
            process.kill()
            process.wait()
            steps = len(list((out / ".work").glob("block-*.json"))) if (out / ".work").is_dir() else 0
            subprocess.run(command, check=True, capture_output=True)
            rows.append({"kill": number + 1, "at s": moment, "steps done": steps, "identical": digest(out) == expected})
    show("kill -9 and resume", rows, whole_seconds=whole_seconds, model=options.model)
    sys.exit(not all(row["identical"] for row in rows))


if __name__ == "__main__":
    main()
