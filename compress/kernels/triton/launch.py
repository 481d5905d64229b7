"""Launches the Triton kernels: chooses the kernel by the number of tokens, the grid and the configuration.

Triton's autotuner measures the configurations at the first product of each kind and caches the best one on disk
(TRITON_CACHE_DIR). Nothing can be measured while a CUDA graph is recorded: a new kind of product then runs the first
configuration. Nothing here waits for the device.

Shape letters: M tokens, N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton  # type: ignore[import-untyped,import-not-found]

from compress.format.packed import PackedTensor
from compress.kernels.triton import delta, products
from compress.kernels.triton import slices as walk

INTERPRETED: bool = products.EMULATED.value
"""Whether the kernels were made for Triton's interpreter, which runs them on the CPU."""
DENSE_FROM = 1024
"""Tokens from which the weight is decoded whole for the library's product; decoding is then a small part of it."""
DENSE_FROM_WITH_DELTA = 256
"""The same with a sparse part, whose entries cost the tiled kernel a gather for every token."""
_FEWEST_TILES = 1
_INTERPRETED_PROCESSORS = 4
_WAVES = 4
"""Programs wanted for each processor: enough loads in flight to fill the memory bus."""
_ROWS = 16
"""Rows per program for computing the number of splits; the autotuner may choose another number for the kernel."""
_SUM_SIZE = 1024

_ONE = [
    triton.Config({"ROWS": rows}, num_warps=warps)
    for rows, warps in ((16, 4), (8, 1), (8, 2), (16, 1), (16, 2), (32, 4), (32, 8), (64, 8))
]
_MANY = [
    triton.Config({"ROWS": rows}, num_warps=warps, num_stages=stages)
    for rows, warps, stages in ((32, 4, 1), (64, 4, 1), (64, 4, 2), (16, 1, 2), (32, 2, 2), (128, 8, 1), (128, 8, 2))
]
_DECODED = triton.Config({"ROWS": 16}, num_warps=4)
# What a measured configuration depends on, beside the dtypes of the tensors and DECODE. Triton writes these values to
# its cache on disk as JSON, which cannot hold a function.
_KEY = ("N", "S", "D", "META", "BIAS")


@dataclass(frozen=True, slots=True)
class Walked:
    """The plan of a tensor that the kernels decode slice by slice; see `plan.Plan`."""

    shape: tuple[int, int]
    slices: walk.Slices
    delta: delta.Delta
    meta: Any
    """NamedTuple of the layout's constants."""
    decode: Any
    """The layout's jitted function, see `products`."""
    planes: Callable[[PackedTensor, Walked], tuple[torch.Tensor, ...]]
    """Returns the layout's planes as `decode` takes them."""
    count: int
    """Number of those planes."""

    @property
    def operands(self) -> int:
        """How many tensors `prepare` returns: the order, six of the sparse part, the layout's."""
        return 7 + self.count

    def prepare(self, packed: PackedTensor, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Returns the operands, which do not depend on `dtype`."""
        order = walk.order(self.slices, packed.planes.get("perm"), packed.planes["weight"].device)
        planes = self.planes(packed, self)
        assert len(planes) == self.count
        return order, *delta.prepare(packed), *planes

    def product(self, x_MK: torch.Tensor, operands: Sequence[torch.Tensor], bias: torch.Tensor | None) -> torch.Tensor:
        """Returns x times the weight: one token in float32 throughout, more with weights in the dtype of x."""
        tokens, rows = x_MK.shape[0], self.shape[0]
        if tokens >= (DENSE_FROM_WITH_DELTA if self.delta.present else DENSE_FROM):
            return torch.nn.functional.linear(x_MK, self.weight(operands, x_MK.dtype), bias)
        out_MN = x_MK.new_empty(tokens, rows)
        if tokens == 0:
            return out_MN
        order, pointers, columns, values = operands[:4]
        block = next(size for size in (1, 16, 32, 64, 128) if size >= min(tokens, 128))
        per_split = self._tiles_per_split(x_MK.device, -(-tokens // block))
        splits = -(-self.slices.tiles // per_split)
        target = out_MN if splits == 1 else x_MK.new_empty(splits, tokens, rows, dtype=torch.float32)
        early_bias = bias if splits == 1 else None
        common = {
            "bias": x_MK if early_bias is None else early_bias, "order": order,
            "pointers": pointers, "columns": columns, "values": values, "planes": tuple(operands[7:]), "N": rows,
            "tiles": per_split, "S": self.slices, "D": self.delta, "META": self.meta, "DECODE": self.decode,
            "BIAS": early_bias is not None,
        }  # fmt: skip
        if block == 1:
            _start(products.one_input, _ONE, lambda meta: (triton.cdiv(rows, meta["ROWS"]), splits), {},
                   {"out": target, "x": x_MK, **common})  # fmt: skip
        else:
            ordered = x_MK
            if self.slices.ordered:  # places without a feature (−1) are masked later
                ordered = x_MK.index_select(1, order.clamp(min=0))
            _start(
                products.many_inputs, _MANY,
                lambda meta: (triton.cdiv(rows, meta["ROWS"]), triton.cdiv(tokens, block), splits), {"TOKENS": block},
                {"out": target, "x": x_MK, "ordered": ordered, "tokens": tokens, **common},
            )  # fmt: skip
        if splits > 1:
            products.sum_splits[(triton.cdiv(out_MN.numel(), _SUM_SIZE),)](
                out_MN, target, out_MN if bias is None else bias, rows, out_MN.numel(),
                SPLITS=splits, BIAS=bias is not None, SIZE=_SUM_SIZE, enable_fp_fusion=False,
            )  # fmt: skip
        return out_MN

    def weight(self, operands: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Returns the weight [N, K]."""
        rows, features = self.shape
        out_NK = torch.empty(rows, features, dtype=dtype, device=operands[0].device)
        grid = (triton.cdiv(rows, _DECODED.kwargs["ROWS"]), self.slices.tiles)
        with torch.cuda.device_of(out_NK):  # type: ignore[no-untyped-call]
            products.decoded[grid](
                out_NK, operands[0], tuple(operands[7:]), rows, S=self.slices, META=self.meta, DECODE=self.decode,
                enable_fp_fusion=False, **_DECODED.all_kwargs(),
            )  # fmt: skip
        return delta.scatter(out_NK, tuple(operands[1:7])) if self.delta.present else out_NK

    def _tiles_per_split(self, device: torch.device, token_blocks: int) -> int:
        """Returns the number of tiles per program that gives enough programs for all processors."""
        programs = -(-self.shape[0] // _ROWS) * token_blocks
        splits = max(1, min(self.slices.tiles, _WAVES * _processors(device) // programs))
        return max(_FEWEST_TILES, -(-self.slices.tiles // splits))


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_PROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@cache
def _tuned(kernel: Any, decode: Any, keys: tuple[str, ...]) -> Any:
    """Returns an autotuner of its own for each `decode`, since that is no part of the keys."""
    configs = _ONE if kernel is products.one_input else _MANY
    return triton.autotune(configs=configs, key=list(keys), cache_results=True)(kernel)


_met: set[Hashable] = set()


def _start(
    kernel: Any, configs: list[Any], grid: Callable[[dict[str, Any]], tuple[int, ...]], blocks: dict[str, int],
    arguments: dict[str, Any],
) -> None:  # fmt: skip
    """Launches a kernel with its best known configuration; measures the configurations first if that is possible."""
    keys = (*_KEY, *blocks)
    with torch.cuda.device_of(arguments["out"]):  # type: ignore[no-untyped-call]
        decode = arguments["DECODE"]
        known = (kernel, decode, arguments["x"].dtype, *(({**arguments, **blocks})[key] for key in keys))
        if INTERPRETED or (known not in _met and torch.cuda.is_current_stream_capturing()):
            first = configs[0].all_kwargs()
            kernel[grid(first)](**arguments, **blocks, **first, enable_fp_fusion=False)
            return
        _tuned(kernel, decode, keys)[grid](**arguments, **blocks, enable_fp_fusion=False)
        _met.add(known)
