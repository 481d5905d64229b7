"""How much memory the work will take, and the ceiling that it must stay below.

The plan counts what is alive at once: the process as it is, one decoder block in float32, the hidden states that go in
and come out of it, the Gram matrices of one input group, and the solver's own copies. Shape letters: N out, K in.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from compress.errors import MemoryLimitError
from compress.tuning.settings import FullSettings, Settings

_FLOAT = 4
_SOLVER_COPIES = 3
"""K x K matrices alive in the factorisation: the Gram matrix itself is counted apart."""
_WEIGHT_COPIES = 7
"""N x K float32-sized arrays alive in a solver: weight, its sweep copy, codes, values, deltas, bit stream."""
_FLOAT64_WIDTH = 2048
_MARGIN = 1.1
_STREAMED_COPIES = 5
"""As _WEIGHT_COPIES, of the methods that need no data; measured with easyquant: 4, and what the heap keeps."""
_WORKER = 240 << 20
"""Resident memory of another process that has torch loaded and nothing to do; measured."""
_LOADER = 180 << 20
"""What transformers and the skeleton of a model add to it; measured."""
_LOADED = 1.5
"""A block while it is loaded: float32, and the stored tensors that are not converted yet."""
_HEAD = 128 << 20
"""A stretch of the output head, as stored and in float32, and the logits."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The estimate and the micro-batch it holds for."""

    peak_bytes: int
    base_bytes: int
    block_bytes: int
    micro_batch: int
    experts_at_once: int
    """Linears whose Gram matrices are collected together; bounds the experts of a block."""


def resident_bytes(others: Iterable[int] = ()) -> int:
    """Returns the resident memory now of this process and of the others given by their ids.

    What processes share, such as the code of libraries, counts for each of them.
    """
    total = int(psutil.Process().memory_info().rss)
    for process in others:
        with suppress(psutil.NoSuchProcess):  # it has died: who waits for its answer will hear so
            total += int(psutil.Process(process).memory_info().rss)
    return total


def solver_bytes(shape: tuple[int, int]) -> int:
    """Returns what solving one linear of `shape` takes beside its Gram matrix."""
    rows, width = shape
    item = 8 if width <= _FLOAT64_WIDTH else _FLOAT
    return _SOLVER_COPIES * width * width * item + _WEIGHT_COPIES * rows * width * _FLOAT


def plan(
    *,
    limit: int | None,
    base_bytes: int,
    linears: list[tuple[int, int]],
    block_bytes: int,
    embedding_bytes: int,
    hidden: tuple[int, int, int],
    shared_inputs: bool,
    tuned: bool = False,
) -> MemoryPlan:
    """Returns the plan with the largest micro-batch (at most 16 sequences) that fits below `limit`.

    Args:
        limit: ceiling in bytes, or None.
        base_bytes: resident memory of the process before the first block.
        linears: shapes (N, K) of the linears of the largest block.
        block_bytes: float32 bytes of the largest block.
        embedding_bytes: bytes alive while tokens are embedded and the head is read.
        hidden: samples, tokens and width of the hidden states.
        shared_inputs: False when every linear has inputs of its own (experts).
        tuned: whether each block is fitted after packing.
    """
    samples, tokens, width = hidden
    states = 2 * samples * tokens * width * _FLOAT
    widest = max(k for _, k in linears)
    activation = tokens * (sum(n + k for n, k in linears[:16]) + 8 * width) * _FLOAT
    solver = max(solver_bytes(shape) for shape in linears)
    fitting = 0
    if tuned:  # what the dense block gives is kept; values, gradient and codes of all weights, activations both ways
        states += samples * tokens * width * _FLOAT
        fitting = int(2.75 * block_bytes) + 2 * min(Settings().micro_batch, samples) * activation
    for experts, micro_batch in ((16, 16), (16, 8), (16, 4), (16, 2), (16, 1), (4, 1), (1, 1)):
        grams = widest * widest * _FLOAT * (1 if shared_inputs else experts)
        # statistics are collected and solved in turn, never both at once
        solving = grams + max(solver, min(micro_batch, samples) * activation)
        block = block_bytes + states + max(solving, fitting)
        peak = int(_MARGIN * (base_bytes + max(block, embedding_bytes + states)))
        if limit is None or peak <= limit:
            break
    else:
        raise MemoryLimitError(
            f"the work takes about {format_bytes(peak)} even one sequence at a time, "
            f"more than the ceiling of {format_bytes(limit or 0)}",
            do="Raise --max-memory, or lower --samples or --seq-len",
        )
    return MemoryPlan(peak, base_bytes, block_bytes, min(micro_batch, samples), experts)


def plan_whole(
    *, limit: int | None, base_bytes: int, block_bytes: int, parameters: int, logits: tuple[int, int]
) -> MemoryPlan:
    """Returns the plan of fitting all blocks at once: two models in float32, and the logits of a few sequences.

    `logits` are the tokens of a sequence and the size of the vocabulary.
    """
    seen = 4 * FullSettings().micro_batch * logits[0] * logits[1] * _FLOAT
    peak = int(_MARGIN * (base_bytes + 2 * parameters * _FLOAT + seen))
    if limit is not None and peak > limit:
        raise MemoryLimitError(
            f"fitting all blocks at once takes about {format_bytes(peak)}, "
            f"more than the ceiling of {format_bytes(limit)}",
            do="Raise --max-memory, lower --seq-len, or fit block by block with --tune block",
        )
    return MemoryPlan(peak, base_bytes, block_bytes, micro_batch=FullSettings().micro_batch, experts_at_once=1)


def plan_streaming(
    *,
    limit: int | None,
    base_bytes: int,
    workers: int,
    largest: int,
    converted_bytes: int,
    block_bytes: int,
    tensor_bytes: int,
) -> MemoryPlan:
    """Returns the plan of a method that needs no data: its greatest moment is when every process has a large linear.

    Args:
        limit: ceiling in bytes, or None.
        base_bytes: resident memory of the process before the first block.
        workers: processes that solve, this one among them.
        largest: weights of the largest linear.
        converted_bytes: the largest parameter that only the model's loader can read, as stored; 0 for none.
        block_bytes: float32 bytes of the largest block.
        tensor_bytes: the largest tensor that is copied as it is.
    """
    solving = _STREAMED_COPIES * largest * _FLOAT + 2 * converted_bytes
    other = _WORKER + (_LOADER if converted_bytes else 0)
    alone = base_bytes + max(tensor_bytes, int(_LOADED * block_bytes) + _HEAD)
    peak = int(_MARGIN * max(alone, base_bytes + solving + (workers - 1) * (other + solving)))
    if limit is not None and peak > limit:
        fit = 1 + int((limit / _MARGIN - base_bytes - solving) // (other + solving))
        fewer = f"Give --workers {fit}, or raise" if alone * _MARGIN <= limit and fit > 0 else "Raise"
        raise MemoryLimitError(
            f"the work takes about {format_bytes(peak)} with {workers} process{'es' if workers > 1 else ''}, "
            f"more than the ceiling of {format_bytes(limit)}",
            do=f"{fewer} --max-memory",
        )
    return MemoryPlan(peak, base_bytes, block_bytes, micro_batch=1, experts_at_once=1)


def enforce(limit: int | None, where: str, others: Iterable[int] = ()) -> None:
    """Raises MemoryLimitError when this process, with the others, is above the ceiling; what is finished is kept."""
    if limit is not None and (now := resident_bytes(others)) > limit:
        raise MemoryLimitError(
            f"resident memory reached {format_bytes(now)}, above the ceiling of {format_bytes(limit)}",
            do="Raise --max-memory or lower --samples, and run again: finished blocks are kept",
            layer=where,
        )


def format_bytes(size: float) -> str:
    """Returns bytes in words, e.g. `2.50 GB`."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
