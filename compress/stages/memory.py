"""Plans the peak memory of a run, and enforces the limit of `--max-memory`.

The plan adds up what is in memory at the same time: the process before it begins, one decoder block in float32, its
input and output hidden states, the Gram matrices of one input group, and the arrays of the solver.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from compress.errors import MemoryLimitError
from compress.models import memory as resident
from compress.models.memory import LOADED
from compress.sizes import format_size
from compress.tuning.settings import FullSettings, Settings

if TYPE_CHECKING:
    import torch

_FLOAT = 4
_SOLVER_COPIES = 3
"""K x K matrices of a factorisation, besides the Gram matrix: the factored copy, its inverse, and a flipped copy."""
_WEIGHT_COPIES = 7
"""Arrays of N x K floats in a solver: the weight, the copy that is swept, codes, values, deltas, the bit stream."""
_FLOAT64_WIDTH = 2048
"""Up to this K the factorisation is computed in float64."""
_FITTED_BYTES = 11
"""Bytes per weight while a block is fitted, besides the weight itself: value and gradient in float32 (8), the decoded
code (1), and 24 for each fitted number (masters, moments and best state), of which there is about one per 12 weights
with the smallest groups (2)."""
_MARGIN = 1.1
"""Peak over estimate, of what a run adds: the allocator keeps freed memory, and small arrays are not counted."""
_LOGIT_COPIES = 4
"""Float32 logits of a micro-batch: student, teacher, the divergence and its gradient."""
_STREAMED_COPIES = 5
"""As _WEIGHT_COPIES, of the methods that need no data: 4, measured with easyquant, and what the allocator keeps."""
_WORKER = 240 << 20
"""Resident memory of a worker process that has imported torch and solved nothing yet; measured."""
_LOADER = 180 << 20
"""What importing transformers and building an empty model adds to it; measured."""
_HEAD = 128 << 20
"""A slice of the output head, as stored and in float32, and its logits."""
_END_STRETCH = 200 << 20
"""The rows of an embedding or a head that are packed at once, and the arrays that the search for their ranges makes."""
_TOUCHED_PER_TOKEN = 2 << 12
"""Bytes of a packed embedding that come into memory for a token: its row, in whole pages of a mapped file."""
_MOST_KEPT = 128
"""Most forwards that wait; each has a thread."""
_TOKENS_AT_ONCE = 2048
"""Tokens of a micro-batch on a CPU: enough for fast products, and few enough that activations stay in its cache."""
_TOKENS_ON_ACCELERATOR = 16384
"""Tokens of a micro-batch on any other device, which needs large products to be busy."""
_PORTIONS = ((16, 16), (16, 8), (16, 4), (16, 2), (16, 1), (4, 1), (1, 1))
"""Experts at once and micro-batch, tried from the fastest to the smallest. The micro-batch shrinks first: it only makes
matrix products less efficient, while fewer experts at once mean more forward passes."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The estimated peak, and the batch sizes that it holds for."""

    peak_bytes: int
    micro_batch: int
    """Sequences that pass through a block at once."""
    experts_at_once: int
    """Experts whose Gram matrices are collected in the same forward pass."""
    kept_forwards: int = 0
    """Micro-batches whose activations may wait in memory while linears are packed; others are computed again."""


def solver_bytes(shape: tuple[int, int]) -> int:
    """Returns the bytes that solving one linear of `shape` (N, K) takes, besides its Gram matrix."""
    rows, width = shape
    item = 8 if width <= _FLOAT64_WIDTH else _FLOAT
    return _SOLVER_COPIES * width * width * item + _WEIGHT_COPIES * rows * width * _FLOAT


def packing_bytes(ends: Sequence[int]) -> int:
    """Returns what packing matrices outside the blocks takes; `ends` are their packed sizes in bytes.

    All are kept until they are written; the parts of the last one are joined, which takes its size once more.
    """
    return sum(ends) + max(ends) + _END_STRETCH if ends else 0


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
    calibrated: bool = False,
    ends: Sequence[int] = (),
    device: torch.device | None = None,
    available: int | None = None,
) -> MemoryPlan:
    """Returns the plan with the largest micro-batch (at most 16 sequences, 2048 tokens) that fits below `limit`.

    What is left below the limit, or half of the free memory, is for forwards that wait (`calibration.side_by_side`).

    Args:
        limit: limit in bytes, or None.
        base_bytes: resident memory of the process before the first block.
        linears: shapes (N, K) of the linears of the largest block.
        block_bytes: float32 bytes of the largest block.
        embedding_bytes: bytes in use while tokens are embedded and while the head is read.
        hidden: number of samples, tokens of each, and width of the hidden states.
        shared_inputs: False when linears have separate inputs (experts), and so a Gram matrix each.
        tuned: whether each block is fitted after packing.
        calibrated: whether the linears are solved with statistics of their inputs.
        ends: packed sizes in bytes of the embedding and the head, if they are packed.
        device: where blocks are computed; the CPU when not given.
        available: free bytes for activations on that device; asked of it when not given.

    Raises:
        MemoryLimitError: not even the smallest micro-batch fits.
    """
    samples, tokens, width = hidden
    on_cpu = device is None or device.type == "cpu"
    most_at_once = min(samples, max(1, (_TOKENS_AT_ONCE if on_cpu else _TOKENS_ON_ACCELERATOR) // tokens))
    states = 2 * samples * tokens * width * _FLOAT
    widest = max(k for _, k in linears)
    activation = tokens * (sum(n + k for n, k in linears[:16]) + 8 * width) * _FLOAT
    solver = max(solver_bytes(shape) for shape in linears)
    touched = min(sum(ends), samples * tokens * _TOUCHED_PER_TOKEN)
    fitting = 0
    if tuned:
        states += samples * tokens * width * _FLOAT  # the outputs of the dense block, which the packed one is fitted to
        # activations are kept for the backward pass, which makes gradients of the same size
        activations = 2 * min(Settings().micro_batch, samples) * activation
        fitting = _FITTED_BYTES * block_bytes // _FLOAT + activations
    for experts, micro_batch in _PORTIONS:
        grams = widest * widest * _FLOAT * (1 if shared_inputs else experts)
        # statistics are collected and solved in turn, never both at once
        solving = grams + max(solver, min(micro_batch, most_at_once) * activation)

        def peak_with(kept_bytes: int, solving: int = solving) -> int:
            block = block_bytes + touched + states + max(solving + kept_bytes, fitting)
            return base_bytes + int(_MARGIN * max(block, embedding_bytes + states, packing_bytes(ends)))

        if limit is None or peak_with(0) <= limit:
            break
    else:
        raise MemoryLimitError(
            f"the run needs about {format_size(peak_with(0))} even with one sequence at a time, "
            f"more than the limit of {format_size(limit or 0)}",
            do="Raise --max-memory, or lower --samples or --seq-len",
        )
    micro_batch = min(micro_batch, most_at_once)
    kept, kept_bytes = 0, micro_batch * tokens * (sum(n for n, _ in linears[:16]) + widest + 3 * width) * _FLOAT
    if calibrated:
        available = _free_bytes(device) if available is None else available
        most = min(-(-samples // micro_batch), _MOST_KEPT, available // 2 // kept_bytes)
        kept = next((kept for kept in range(most, 0, -1) if limit is None or peak_with(kept * kept_bytes) <= limit), 0)
    return MemoryPlan(peak_with(kept * kept_bytes), micro_batch, experts, kept)


def _free_bytes(device: torch.device | None) -> int:
    """Returns the free memory of a CUDA device, or of the machine."""
    if device is not None and device.type == "cuda":
        import torch

        if torch.cuda.is_available():  # it is not where tests put another device in its place
            return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def plan_whole(*, limit: int | None, base_bytes: int, parameters: int, logits: tuple[int, int]) -> MemoryPlan:
    """Returns the plan of fitting all blocks at once: two models in float32, and the logits of a micro-batch.

    Args:
        limit: limit in bytes, or None.
        base_bytes: resident memory of the process before the first block.
        parameters: parameters of the model.
        logits: tokens of a sequence, and size of the vocabulary.
    """
    logit_bytes = _LOGIT_COPIES * FullSettings().micro_batch * logits[0] * logits[1] * _FLOAT
    peak = base_bytes + int(_MARGIN * (2 * parameters * _FLOAT + logit_bytes))
    if limit is not None and peak > limit:
        raise MemoryLimitError(
            f"fitting all blocks at once needs about {format_size(peak)}, more than the limit of {format_size(limit)}",
            do="Raise --max-memory, lower --seq-len, or fit block by block with --tune block",
        )
    return MemoryPlan(peak, micro_batch=FullSettings().micro_batch, experts_at_once=1)


def plan_streaming(
    *,
    limit: int | None,
    base_bytes: int,
    workers: int,
    largest: int,
    converted_bytes: int,
    block_bytes: int,
    tensor_bytes: int,
    ends: Sequence[int] = (),
) -> MemoryPlan:
    """Returns the plan of a method that needs no data; the peak is when every process solves a large linear.

    Args:
        limit: limit in bytes, or None.
        base_bytes: resident memory of the process before the first block.
        workers: processes that solve, this one among them.
        largest: weights of the largest linear.
        converted_bytes: stored bytes of the largest parameter that transformers has to convert; 0 for none.
        block_bytes: float32 bytes of the largest block.
        tensor_bytes: bytes of the largest tensor that is copied without a change.
        ends: packed sizes in bytes of the embedding and the head, if they are packed.
    """
    solving = _STREAMED_COPIES * largest * _FLOAT + 2 * converted_bytes
    other = _WORKER + (_LOADER if converted_bytes else 0)
    # the packed head is mapped while logits are computed for the proof
    alone = max(tensor_bytes, int(LOADED * block_bytes) + _HEAD + sum(ends), packing_bytes(ends))
    peak = base_bytes + int(_MARGIN * max(alone, solving + (workers - 1) * (other + solving)))
    if limit is not None and peak > limit:
        room = (limit - base_bytes) / _MARGIN
        fit = 1 + int((room - solving) // (other + solving))
        fewer = f"Give --workers {fit}, or raise" if alone <= room and fit > 0 else "Raise"
        raise MemoryLimitError(
            f"the run needs about {format_size(peak)} with {workers} process{'es' if workers > 1 else ''}, "
            f"more than the limit of {format_size(limit)}",
            do=f"{fewer} --max-memory",
        )
    return MemoryPlan(peak, micro_batch=1, experts_at_once=1)


def enforce(limit: int | None, where: str, others: Iterable[int] = ()) -> None:
    """Raises MemoryLimitError when this process and `others` together use more than the limit.

    Args:
        limit: limit in bytes, or None.
        where: layer that was being worked on, for the error.
        others: ids of worker processes.
    """
    cure = "Raise --max-memory or lower --samples, and run again: finished blocks are kept"
    resident.enforce(limit, do=cure, layer=where, others=others)
