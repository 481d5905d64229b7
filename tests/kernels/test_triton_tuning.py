"""Triton's autotuner measures the kernels and keeps what it found on disk."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
CASES = ("int4 g128", "spqr 3 g16", "aqlm 2x8 g8", "2:4 int4")


def test_the_fastest_configuration_is_kept_on_disk_for_every_layout(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.support.tune_triton", *CASES]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment | {"TRITON_CACHE_DIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    started = ast.literal_eval(done.stdout.splitlines()[-1])
    assert {kernel for kernel, _ in started} >= {"one_input", "many_inputs"}
    kept = [json.loads(path.read_text("utf-8")) for path in tmp_path.glob("*/*.autotune.json")]
    assert len(kept) == 2 * len(CASES)
    assert all(len(each["configs_timings"]) > 1 for each in kept)
