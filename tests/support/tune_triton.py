"""Has Triton's autotuner choose configurations without a GPU, its cache on disk included: run by test_triton_tuning.py.

What stands in for the driver says which device there would be and how long a configuration would take; kernels are not
compiled.

Usage: python -m tests.support.tune_triton CASE...
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget

from compress.kernels.triton import plan
from tests.support import kernel_cases


def main(names: list[str]) -> None:
    """Multiplies with every case, by one token and by some."""
    target = GPUTarget("cuda", 90, 32)
    timings = iter(range(1, 1000))
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_device=lambda: 0, get_current_stream=lambda device: 0, get_current_target=lambda: target,
            get_benchmarker=lambda: lambda call, quantiles: [float(next(timings))] * 3,
        )
    )  # fmt: skip
    torch.cuda.is_current_stream_capturing = lambda: False
    started: list[tuple[str, int]] = []
    triton.JITFunction.run = lambda self, *_, **options: started.append((self.fn.__name__, options.get("num_warps", 0)))
    for name in names:
        packed = kernel_cases.CASES[name]()
        run = plan.plan(packed.scheme, packed.shape)
        operands = run.prepare(packed, torch.bfloat16)
        for tokens in (1, 20):
            run.product(torch.zeros(tokens, packed.shape[1], dtype=torch.bfloat16), operands, None)
    print(started)


if __name__ == "__main__":
    main(sys.argv[1:])
