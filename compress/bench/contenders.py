"""Makes contenders for `compress bench`: our kernels and torch's dense products.

Shape letters: N out features, K in features, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from compress.bench import planes
from compress.bench.timing import CPU, Contender
from compress.errors import CompressError
from compress.format.packed import PackedTensor
from compress.kernels import select

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CACHES = 4
"""Size of all copies of a weight together, in last-level caches."""
_MOST_COPIES = 4096
"""Copies of tiny weights are objects more than bytes: half a million of them, for a cache of 260 MB, took 4 GB."""


@dataclass(frozen=True, slots=True)
class Case:
    """The product to compute: inputs [T, K] times a weight [N, K]."""

    shape: tuple[int, int]
    tokens: int
    dtype: torch.dtype
    """Type of inputs and outputs."""
    cache_bytes: int
    """Size of the last-level cache."""
    device: torch.device = CPU
    """Where the product is computed."""

    def inputs(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Returns normally distributed inputs [T, K], always the same."""
        generator = torch.Generator().manual_seed(self.tokens)
        x_TK = torch.randn(self.tokens, self.shape[1], generator=generator)
        return x_TK.to(self.device, self.dtype if dtype is None else dtype)

    def copies(self, weight_bytes: int) -> int:
        """Returns the number of copies of a weight that take turns, so that none is cached when its turn comes.

        Weights so small that this takes more than `_MOST_COPIES` may be cached.
        """
        return min(_MOST_COPIES, 1 + _CACHES * self.cache_bytes // max(1, weight_bytes))


def ours(case: Case, name: str, packed: PackedTensor, kernel: str | None) -> Contender:
    """Returns the product with a packed weight, by `kernel` or by the one that would be selected.

    Raises:
        CompressError: the kernel cannot run this layout.
    """
    answer = select.ask(kernel, packed.scheme, packed.shape, case.device) if kernel else select.select(
        packed.scheme, packed.shape, case.device
    )  # fmt: skip
    if isinstance(answer, select.Rejected):
        raise CompressError(f"{name} cannot run: {answer.reason}", allowed=", ".join(select.KERNELS))
    module, x = select.load(answer.kernel), case.inputs()
    operands = module.prepare(packed.to(case.device), case.dtype)
    planes = [operand for operand in operands if isinstance(operand, torch.Tensor)]  # the Triton kernel's first is text
    size = sum(plane.numel() * plane.element_size() for plane in planes)
    copies = [operands, *(_copy(operands) for _ in range(case.copies(size) - 1))]
    return Contender(
        name,
        [_product(module, x, copy) for copy in copies],
        packed.size_bytes,
        {"kernel": answer.kernel, "prepared_bytes": size, "bits_per_weight": packed.bits_per_weight},
        case.device,
    )


def _copy(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(operand.clone() if isinstance(operand, torch.Tensor) else operand for operand in operands)


def _product(module: ModuleType, x: torch.Tensor, operands: tuple[Any, ...]) -> Callable[[], object]:
    return lambda: module.linear(x, operands, None)


def dense(case: Case, name: str) -> Contender:
    """Returns torch's dense product, with weight and inputs in the dtype `name`."""
    dtype = DTYPES[name]
    generator, x = torch.Generator().manual_seed(0), case.inputs(dtype)
    weight = (torch.randn(case.shape, generator=generator) * planes.SIZE).to(case.device, dtype)
    size = weight.numel() * weight.element_size()
    copies = [weight, *(weight.clone() for _ in range(case.copies(size) - 1))]
    calls: list[Callable[[], object]] = [lambda w=copy: torch.nn.functional.linear(x, w) for copy in copies]  # type: ignore[misc]
    return Contender(f"torch-{name}", calls, size, {"kernel": "torch"}, case.device)
