"""Estimates of the peak memory, the stored bits and the time of a pack stage.

Shape letters: N out features, K in features.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from compress.calibration.stats import LayerStats
from compress.format import layouts
from compress.models.memory import resident_bytes
from compress.stages import memory
from compress.stages.budget.sensitivity import PROBE_BYTES
from compress.stages.pack.jobs import one_thread
from compress.stages.plan.needs import needs_data, solving_device, streams

if TYPE_CHECKING:
    from compress.methods.protocol import PackMethod
    from compress.models.blocks import BlockWalker
    from compress.models.linears import LinearRef
    from compress.models.source import ModelSource
    from compress.recipe import Recipe

_SAMPLE_ROWS = 256
"""Rows of the random weight that is packed for the estimate: enough for a stable time, few enough to be quick."""
_SWEEP_FLOPS = 600
"""Work of an error-compensated sweep per weight, besides its N·K² part, in multiply-adds; measured."""
_START_SECONDS = 8.0
"""Time of the imports, in this process and in the one that proves the load; measured."""
_SECONDS_PER_BYTE = 8e-9
"""Time to read the source, to write the result, its reference and its proof, per byte of the source; measured."""


def plan_memory(
    recipe: Recipe,
    source: ModelSource,
    walker: BlockWalker,
    method: PackMethod,
    block: Sequence[LinearRef],
    packed_ends: Sequence[int] = (),
) -> memory.MemoryPlan:
    """Returns the memory plan of the recipe's only stage; of its phases, the one with the highest peak counts.

    Args:
        recipe: recipe of one stage.
        source, walker: the model.
        method: method of the stage.
        block: linears of the largest block.
        packed_ends: sizes in bytes of the embedding and the head that are packed.

    Raises:
        MemoryLimitError: a phase does not fit below `recipe.max_memory`.
    """
    stage, plans = recipe.stages[-1], []
    base_bytes, block_bytes = resident_bytes(), 4 * sum(math.prod(ref.shape) for ref in block)
    tensor_bytes = max((entry.end - entry.start for entry in source.tensors.values()), default=0)
    one_by_one, mixed = streams(stage, method, source), stage.target_bits is not None
    if needs_data(stage, method) or not one_by_one:
        by_block = memory.plan(
            limit=recipe.max_memory,
            base_bytes=base_bytes + walker.argument_bytes + (PROBE_BYTES if mixed else 0),
            linears=[ref.shape for ref in block],
            # measuring sensitivities holds all candidates of an input group besides the dense weights
            block_bytes=block_bytes * (3 if mixed else 1),
            embedding_bytes=3 * tensor_bytes,  # as stored, and in float32 for the head
            hidden=(recipe.calibration.samples, recipe.calibration.seq_len, walker.state_size),
            shared_inputs=not any(ref.kind == "expert" for ref in block),
            tuned=stage.tune is not None,
            calibrated=bool(method.needs(method.Config(**stage.options))),
            ends=packed_ends,
            device=walker.device,
        )
        plans.append(by_block)
    if stage.tune == "full":
        whole = memory.plan_whole(
            limit=recipe.max_memory,
            base_bytes=base_bytes,
            parameters=source.parameters,
            logits=(recipe.calibration.seq_len, walker.vocab_size),
        )
        # the batch sizes are those of the block loop, which runs before the fine-tuning of the whole model
        plans.append(dataclasses.replace(by_block, peak_bytes=whole.peak_bytes))
    if one_by_one:
        converted = {ref.parameter for ref in block if not walker.stored(ref).origins}
        plans.append(
            memory.plan_streaming(
                limit=recipe.max_memory,
                base_bytes=base_bytes,
                workers=recipe.workers,
                largest=max(math.prod(ref.shape) for ref in block),
                converted_bytes=max((walker.stored_bytes(name) for name in converted), default=0),
                block_bytes=block_bytes,
                tensor_bytes=tensor_bytes,
                ends=packed_ends,
            )
        )
    return max(plans, key=lambda plan: plan.peak_bytes)


def sample(method: PackMethod, config: Any, shape: tuple[int, int], device: torch.device) -> tuple[float, float]:
    """Packs a random weight of `shape` (N, K; fewer rows) and returns its bits per weight and seconds per weight.

    The seconds are those of `device`, on the CPU of one thread; 0 for a method that needs data, whose time depends on
    more than the weights.
    """
    generator = torch.Generator().manual_seed(0)
    weight_NK = torch.randn(min(_SAMPLE_ROWS, shape[0]), shape[1], generator=generator)
    stats = LayerStats(1, torch.eye(shape[1])) if method.needs(config) else None
    bits = float(method.solve(weight_NK, stats, config).bits_per_weight)
    if stats is not None:
        return bits, 0.0
    weight_NK = weight_NK.to(solving_device(device))
    if weight_NK.device.type != "cpu":
        method.solve(weight_NK, None, config)  # the first on a device loads its kernels
    with one_thread():
        start = time.perf_counter()
        layouts.unpack(method.solve(weight_NK, None, config)).cpu()
        return bits, (time.perf_counter() - start) / weight_NK.numel()


def streaming_seconds(weights: int, source_bytes: int, seconds_per_weight: float, workers: int) -> float:
    """Returns a rough estimate for a method that needs no data.

    Solving is divided among the workers; reading, writing and proving are not.
    """
    processes = min(workers, os.cpu_count() or 1)
    return _START_SECONDS + weights * seconds_per_weight / processes + source_bytes * _SECONDS_PER_BYTE


def data_seconds(shapes: Sequence[tuple[int, int]], tokens: int, candidates: int = 0) -> float:
    """Returns a rough estimate for a method that needs data, from the speed of a matrix product on this machine.

    Args:
        shapes: shapes (N, K) of all linears that are packed.
        tokens: calibration tokens.
        candidates: settings per linear that mixed precision measures; 0 without `--target-bits`.
    """
    size = 512
    left, right = torch.ones(size, size), torch.ones(size, size)
    left @ right  # the first product starts the threads
    start = time.perf_counter()
    for _ in range(4):
        left @ right
    rate = 4 * 2 * size**3 / (time.perf_counter() - start)
    weights = sum(n * k for n, k in shapes)
    forward = 2 * weights * tokens
    grams = sum(2 * tokens * k * k for _, k in shapes) / 4  # about two linears share an input; half of each product
    solves = sum(k**3 + 2 * n * k * k + _SWEEP_FLOPS * n * k for n, k in shapes)
    # measuring takes the statistics once more, a solve of each candidate, and about a dozen forward passes
    measured = 12 * forward + grams + candidates * solves if candidates else 0
    return (forward + grams + solves + measured) / rate
