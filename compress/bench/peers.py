"""Makes contenders from other installed programs, through their public interfaces.

Each function returns a Contender, or the reason why the program cannot take part.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable

import torch

from compress.bench import ggml
from compress.bench.contenders import Case
from compress.bench.timing import Contender

_GROUP = 128


def torch_int4(case: Case) -> Contender | str:
    """Returns torch's int4 product for the CPU, groups of 128. Inputs are bfloat16: float32 is ten times slower."""
    rows, columns = case.shape
    if rows % 16 or columns % _GROUP:
        return f"torch's int4 product takes rows in multiples of 16 and columns of {_GROUP}, not {rows}×{columns}"
    generator, x = torch.Generator().manual_seed(0), case.inputs(torch.bfloat16)
    codes = torch.randint(0, 16, case.shape, generator=generator, dtype=torch.int32)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    statistics = torch.rand(columns // _GROUP, rows, 2, generator=generator).bfloat16()
    size = packed.numel() + statistics.numel() * statistics.element_size()

    def call(weight: torch.Tensor, groups: torch.Tensor) -> Callable[[], object]:
        return lambda: torch.ops.aten._weight_int4pack_mm_for_cpu(x, weight, _GROUP, groups)

    calls = [call(packed.clone(), statistics.clone()) for _ in range(case.copies(size))]
    return Contender("peer-torch-int4", calls, size, {"kernel": "torch", "inputs": "bfloat16"})


def torchao(case: Case) -> Contender | str:
    """Returns torchao's weight-only int4 linear for the CPU: torch's int4 product behind a tensor subclass."""
    if importlib.util.find_spec("torchao") is None:
        return "torchao is not installed"
    if case.shape[0] % 16 or case.shape[1] % _GROUP:
        return f"torchao's int4 linear takes rows in multiples of 16 and columns of {_GROUP}"
    from torchao.prototype.quantization.int4.inference_workflow import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import quantize_

    size = case.shape[0] * case.shape[1] // 2 + case.shape[0] * case.shape[1] // _GROUP * 4
    x = case.inputs(torch.bfloat16)
    layer = torch.nn.Linear(case.shape[1], case.shape[0], bias=False, dtype=torch.bfloat16)
    quantize_(layer, PrototypeInt4WeightOnlyConfig(group_size=_GROUP, set_inductor_config=False))
    layer.requires_grad_(False)
    layers = [layer, *(copy.deepcopy(layer) for _ in range(case.copies(size) - 1))]
    calls: list[Callable[[], object]] = [lambda layer=layer: layer(x) for layer in layers]  # type: ignore[misc]
    return Contender("peer-torchao-int4", calls, size, {"kernel": "torchao", "inputs": "bfloat16"})


def aqlm(case: Case) -> Contender | str:
    """Returns aqlm's CPU kernel, two codebooks of 256 vectors of 8, float32, on one thread: its threads race."""
    if importlib.util.find_spec("aqlm") is None or importlib.util.find_spec("numba") is None:
        return "aqlm with numba is not installed"
    import numba
    from aqlm.inference_kernels.numba_kernel import numba_gemm_lut

    rows, columns = case.shape
    if case.tokens > 1:
        return "aqlm's CPU kernel multiplies one token at a time"
    generator, x = torch.Generator().manual_seed(0), case.inputs(torch.float32)
    codes = torch.randint(-128, 128, (columns // 8, rows, 2), generator=generator, dtype=torch.int8)
    books = torch.randn(2, 256, 1, 8, generator=generator)
    scales = torch.rand(rows, 1, 1, 1, generator=generator)
    size = codes.numel() + 2 * books.numel() + 2 * rows

    def call(codes: torch.Tensor) -> Callable[[], object]:
        def run() -> object:
            threads = torch.get_num_threads()
            numba.set_num_threads(1)
            try:
                return numba_gemm_lut(x, codes, books, scales, None)
            finally:
                torch.set_num_threads(threads)  # numba changes the OpenMP runtime, which torch shares

        return run

    calls = [call(codes.clone()) for _ in range(case.copies(size))]
    return Contender("peer-aqlm-2x8", calls, size, {"kernel": "numba", "inputs": "float32", "threads": 1})


PEERS: dict[str, Callable[[Case], Contender | str]] = {
    "torch-int4": torch_int4,
    "torchao": torchao,
    "aqlm": aqlm,
    "ggml-q4_0": lambda case: ggml.contender(case, "q4_0", repacked=False),
    "ggml-q4_0-repacked": lambda case: ggml.contender(case, "q4_0", repacked=True),
    "ggml-q4_k": lambda case: ggml.contender(case, "q4_k", repacked=False),
    "ggml-q4_k-repacked": lambda case: ggml.contender(case, "q4_k", repacked=True),
}
"""Functions that make the contenders, by name."""
