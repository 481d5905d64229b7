"""Compiles the kernels for Hopper without a GPU, by Triton's own launcher up to the launch: run by test_triton.py.

The interpreter takes much that the compiler refuses. What stands in for the driver only says which device there would
be.

Usage: python -m tests.support.compile_triton CASE...
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from compress.format.packed import PackedTensor
from compress.kernels.triton import launch, plan, products
from tests.support import kernel_cases

SHARED_MEMORY = 99 * 1024
"""Bytes of shared memory that the first configuration may take: those of a block on consumer GPUs; others have more."""


def kernels(packed: PackedTensor, tokens: int) -> list[tuple[Any, dict[str, Any]]]:
    """Every kernel that a product and a decoding start, with the arguments of its start."""
    started: list[tuple[Any, dict[str, Any]]] = []

    def recorded(kernel: Any) -> Any:
        def start(*args: Any, **kwargs: Any) -> None:
            started.append((kernel, dict(zip(kernel.arg_names, args, strict=False)) | kwargs))

        return type("Recorded", (), {"__getitem__": lambda self, grid: start})()

    originals = {name: getattr(products, name) for name in ("one_input", "many_inputs", "sum_splits", "decoded")}
    launch.INTERPRETED = True  # no measuring, the first configuration
    try:
        for name, kernel in originals.items():
            setattr(products, name, recorded(kernel))
        run = plan.plan(packed.scheme, packed.shape)
        operands = run.prepare(packed, torch.bfloat16)
        run.product(torch.zeros(tokens, packed.shape[1], dtype=torch.bfloat16), operands, None)
        run.weight(operands, torch.bfloat16)
    finally:
        launch.INTERPRETED = False
        for name, kernel in originals.items():
            setattr(products, name, kernel)
    return started


def main(names: list[str]) -> None:
    """Compiles the kernels of the cases."""
    target = GPUTarget("cuda", 90, 32)
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_device=lambda: 0, get_current_stream=lambda device: 0, get_current_target=lambda: target
        )
    )  # fmt: skip
    for name in names:
        packed = kernel_cases.CASES[name]()
        for tokens in (1, 20):
            for kernel, arguments in kernels(packed, tokens):
                compiled = kernel.warmup(grid=(1,), **arguments)
                assert compiled.asm["cubin"], name
                assert ".ftz" not in compiled.asm["ptx"], f"{name}: subnormal numbers would be lost"
                assert compiled.metadata.shared <= SHARED_MEMORY, f"{name}: {compiled.metadata.shared} bytes shared"
                print(name, tokens, kernel.fn.__name__, "compiled", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
