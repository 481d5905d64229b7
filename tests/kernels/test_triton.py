"""Runs on_triton.py in a process of its own: on the GPU if there is one, else in Triton's interpreter on the CPU.

Triton decides at its import whether it interprets, so the process that runs the other tests must not.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compress.format.layouts import int_group
from compress.kernels import triton

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
PACKED = int_group.pack(torch.zeros(4, 64, dtype=torch.int64), torch.ones(4, 1), None, bits=4)


@needs_triton
@pytest.mark.timeout(900)
def test_kernels() -> None:
    interpret = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-o", "addopts=", "-p", "no:cacheprovider", str(HERE / "on_triton.py")],
        env=os.environ | interpret, cwd=HERE.parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_the_cpu_is_refused_without_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(triton.INTERPRETER, raising=False)
    reason = triton.reject(PACKED.scheme, PACKED.shape, torch.device("cpu"))
    assert reason is not None and "CUDA devices, not on cpu" in reason
    assert "spqr_x" in str(
        triton.reject(type(PACKED.scheme)(layout="spqr_x", bits=2, group_size=8), (8, 8), torch.device("cpu"))
    )


def test_a_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "_installed", lambda: False)
    monkeypatch.setenv(triton.INTERPRETER, "1")
    reason = triton.reject(PACKED.scheme, PACKED.shape, torch.device("cpu"))
    assert reason is not None and "triton is not installed" in reason
