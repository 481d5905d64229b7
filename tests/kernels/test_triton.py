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

ROOT = Path(__file__).parents[2]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
PACKED = int_group.pack(torch.zeros(4, 64, dtype=torch.int64), torch.ones(4, 1), None, bits=4)


@needs_triton
@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_kernels(which: str) -> None:
    interpret = {} if torch.cuda.is_available() else {triton.INTERPRETER: "1"}
    flags = ["-q", "-x", "-o", "addopts=", "-m", which, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags, str(ROOT / "tests/support/on_triton.py")],
        env=os.environ | interpret, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@needs_triton
@pytest.mark.parametrize(
    "names",
    [
        ("int4 bfloat16", "aqlm 2x8 g8"),
        pytest.param(("int3 g16 outliers", "spqr 3 g16", "2:4 int4", "2:4 bfloat16 slorb"), marks=pytest.mark.slow),
    ],
    ids=["two layouts", "all layouts"],
)
@pytest.mark.timeout(900)
def test_kernels_compile_for_hopper_without_a_gpu(names: tuple[str, ...], tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop(triton.INTERPRETER, None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.compile_triton", *names],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert all(f"{name} 20 decoded compiled" in done.stdout for name in names)


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
