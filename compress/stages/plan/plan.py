"""The plan of a run: what will be compressed, how large the result will be, how much memory and time it takes."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from compress.calibration.stats import LayerStats
from compress.errors import CompressError, RecipeError
from compress.format import layouts
from compress.format.layouts.dense import PART_LAYOUT
from compress.stages import memory
from compress.stages.budget.candidates import least_bits, settings, target_too_low
from compress.stages.budget.sensitivity import PROBE_BYTES
from compress.stages.pack import composite
from compress.stages.pack.jobs import one_thread
from compress.stages.plan.coverage import Coverage, account, select

if TYPE_CHECKING:
    from compress.format.scheme import Scheme
    from compress.methods.protocol import PackMethod
    from compress.models.blocks import BlockWalker
    from compress.models.linears import LinearRef
    from compress.models.source import ModelSource
    from compress.recipe import Recipe, StageSpec

_SAMPLE_ROWS = 256
_SWEEP_FLOPS = 600
"""Work per weight of an error-compensated sweep beside its K·N² part, in units of one multiply-add; measured."""
_START_SECONDS = 8.0
"""Imports, here and in the process that proves the load; measured."""
_SECONDS_PER_BYTE = 8e-9
"""Reading the source, writing the result, the reference and the proof, per byte of the source; measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `--dry-run` shows."""

    model: str
    method: str
    options: dict[str, Any]
    output: str
    blocks: int
    linears: int
    coverage: dict[str, Any] | None
    calibration: dict[str, Any] | None
    bits_per_weight: float | None
    """Of the linears; None where nothing is packed."""
    allotted: dict[str, Any] | None
    """With a target: how many candidates there are, and the least bits per weight that they can make."""
    output_bytes: int
    source_bytes: int
    peak_memory_bytes: int
    micro_batch: int
    then: tuple[str, ...]
    """Methods of the stages that follow: what they do depends on what this one leaves."""
    seconds: float | None
    """None where it depends on what is found."""


def make(
    recipe: Recipe, source: ModelSource, walker: BlockWalker, method: PackMethod, config: Any, output: str
) -> tuple[Plan, Coverage, memory.MemoryPlan]:
    """Returns the plan, the account and the memory plan; everything that can be refused before the work is, is."""
    blocks = [walker.linears(index) for index in range(len(walker.block_names))]
    shapes = {ref.name: ref.shape for refs in blocks for ref in refs}
    dense = {name: walker.dense_shape(name) for name in walker.dense_tensors()}
    skipped = select(shapes, recipe.skip)
    _refuse_split_experts([ref for refs in blocks for ref in refs], set(skipped))
    coverage = account(shapes, dense, skipped, recipe.min_coverage)
    wanted = {name: shape for name, shape in shapes.items() if name not in coverage.skipped}
    for name, shape in wanted.items():
        if (scheme := source.scheme(name)) is not None:
            _refuse_packed(scheme, name)
            composite.check(method, scheme, shape, config, layer=name)
            continue
        try:
            method.check(shape, config)
        except CompressError as error:
            error.layer = error.layer or name
            raise
    largest = max(blocks, key=lambda refs: sum(math.prod(ref.shape) for ref in refs))
    samples, tokens = recipe.calibration.samples, recipe.calibration.seq_len
    with_data = needs_data(recipe, method)
    stage = recipe.stages[-1]
    allotted = _allotted(stage, method, config, list(wanted.values()), packed=bool(source.unpacked))
    plan = _memory(recipe, source, walker, method, largest, with_allotment=allotted is not None)
    narrowest = min(wanted.values(), key=lambda shape: shape[1], default=None)
    bits, seconds_per_weight = _sample(method, config, narrowest) if narrowest else (0.0, 0.0)
    if stage.target_bits is not None:
        bits = stage.target_bits
    source_bytes = source.size_bytes
    dense_bytes = source_bytes * (1 - coverage.compressed / coverage.total)
    return (
        Plan(
            model=recipe.model,
            method=stage.method,
            options=dict(stage.options),
            output=output,
            blocks=len(blocks),
            linears=len(wanted),
            coverage=coverage.to_dict(),
            calibration={"source": recipe.calibration.source, "samples": samples, "seq_len": tokens}
            if with_data
            else None,
            bits_per_weight=bits,
            allotted=allotted,
            output_bytes=int(coverage.compressed * bits / 8 + dense_bytes),
            source_bytes=source_bytes,
            peak_memory_bytes=plan.peak_bytes,
            micro_batch=plan.micro_batch,
            then=(),
            seconds=_seconds(list(wanted.values()), samples * tokens, allotted["candidates"] if allotted else 0)
            if with_data
            else _streaming_seconds(coverage.compressed, source_bytes, seconds_per_weight, recipe.workers),
        ),
        coverage,
        plan,
    )


def _allotted(
    stage: StageSpec, method: PackMethod, config: Any, shapes: list[tuple[int, int]], *, packed: bool
) -> dict[str, Any] | None:
    """Returns what is known of mixed precision before anything is measured; a target that is too low is an error."""
    if stage.target_bits is None:
        return None
    if packed:
        raise RecipeError(
            "--target-bits is not supported for composite (low-rank or sparse) linears",
            do="Give the method's bits instead",
        )
    least = least_bits(method, config, shapes)
    if least > stage.target_bits:
        raise target_too_low(stage.target_bits, least)
    return {"candidates": len(settings(method, config)), "least_bits": round(least, 6)}


def needs_data(recipe: Recipe, method: PackMethod) -> bool:
    """Returns whether the run needs calibration text: for the method, for fitting, or to measure sensitivities."""
    stage = recipe.stages[-1]
    return bool(method.NEEDS) or stage.tune is not None or stage.target_bits is not None


def _refuse_split_experts(refs: list[LinearRef], skipped: set[str]) -> None:
    """The matrices of fused experts are one parameter: all of a projection are packed, or none."""
    by_parameter: dict[str, set[bool]] = {}
    for ref in refs:
        by_parameter.setdefault(ref.parameter, set()).add(ref.name in skipped)
    for parameter, choices in by_parameter.items():
        if len(choices) > 1:
            raise RecipeError(
                "--skip leaves some of its experts dense and packs others",
                do=f"Match all of them, e.g. with '{parameter.rpartition('.')[0]}.*'",
                layer=parameter,
            )


def _refuse_packed(scheme: Scheme, layer: str) -> None:
    """A linear of the source may stand in parts, but what is quantised once is not quantised again."""
    parts = getattr(layouts.layout_module(scheme.layout), "PARTS", ())
    kept_as = [scheme.options[part]["layout"] for part in parts] or [scheme.layout]
    if any(layout != PART_LAYOUT for layout in kept_as):
        raise RecipeError(
            f"the source holds it as {', '.join(dict.fromkeys(kept_as))}: it is quantised already",
            do="Give the model that it was made from, or train what it holds with --method distill --train packed",
            layer=layer,
        )


def streams(stage: StageSpec, method: PackMethod, source: ModelSource) -> bool:
    """Returns whether linears are solved one by one as they are read: no data is needed to solve or to fit them.

    Those of a packed source are not read as they are solved, but in their parts.
    """
    return not method.NEEDS and stage.tune is None and not source.unpacked


def _memory(
    recipe: Recipe,
    source: ModelSource,
    walker: BlockWalker,
    method: PackMethod,
    block: list[LinearRef],
    *,
    with_allotment: bool,
) -> memory.MemoryPlan:
    """Returns the memory plan; `block` is the largest. Where two kinds of work follow each other, the greater
    counts."""
    stage, plans = recipe.stages[-1], []
    base_bytes, block_bytes = memory.resident_bytes(), 4 * sum(math.prod(ref.shape) for ref in block)
    tensor_bytes = max((entry.end - entry.start for entry in source.tensors.values()), default=0)
    one_by_one = streams(stage, method, source)
    if needs_data(recipe, method) or not one_by_one:
        plan = memory.plan(
            limit=recipe.max_memory,
            base_bytes=base_bytes + (PROBE_BYTES if with_allotment else 0),
            linears=[ref.shape for ref in block],
            # measuring holds all candidates of a set, and what they stand in for
            block_bytes=block_bytes * (3 if with_allotment else 1),
            embedding_bytes=3 * tensor_bytes,  # as read, and in float32 for the head
            hidden=(recipe.calibration.samples, recipe.calibration.seq_len, walker.hidden_size),
            shared_inputs=not any(ref.kind == "expert" for ref in block),
            tuned=stage.tune is not None,
        )
        plans.append(plan)
    if stage.tune == "full":
        whole = memory.plan_whole(
            limit=recipe.max_memory,
            base_bytes=base_bytes,
            block_bytes=block_bytes,
            parameters=source.parameters,
            logits=(recipe.calibration.seq_len, walker.vocab_size),
        )
        # how many sequences go through a block at once stays what the blocks' own plan says
        plans.append(dataclasses.replace(whole, micro_batch=plan.micro_batch, experts_at_once=plan.experts_at_once))
    if one_by_one:
        converted = {ref.parameter for ref in block if not walker.stored(ref).origins}
        plan = memory.plan_streaming(
            limit=recipe.max_memory,
            base_bytes=base_bytes,
            workers=recipe.workers,
            largest=max(math.prod(ref.shape) for ref in block),
            converted_bytes=max((walker.stored_bytes(name) for name in converted), default=0),
            block_bytes=block_bytes,
            tensor_bytes=tensor_bytes,
        )
        plans.append(plan)
    return max(plans, key=lambda plan: plan.peak_bytes)


def _sample(method: PackMethod, config: Any, shape: tuple[int, int]) -> tuple[float, float]:
    """Returns bits per weight and seconds per weight of a random weight of the model's least width, really packed.

    The seconds are those of one thread, and of a method that needs no data; 0 for the others.
    """
    generator = torch.Generator().manual_seed(0)
    weight_NK = torch.randn(min(_SAMPLE_ROWS, shape[0]), shape[1], generator=generator)
    stats = LayerStats(1, torch.eye(shape[1])) if method.NEEDS else None
    bits = float(method.solve(weight_NK, stats, config).bits_per_weight)
    if method.NEEDS:
        return bits, 0.0
    with one_thread():
        start = time.perf_counter()
        layouts.unpack(method.solve(weight_NK, None, config))
        return bits, (time.perf_counter() - start) / weight_NK.numel()


def _streaming_seconds(weights: int, source_bytes: int, seconds_per_weight: float, workers: int) -> float:
    """Returns a rough estimate: solving is divided among processes, reading, writing and proving are not."""
    processes = min(workers, os.cpu_count() or 1)
    return _START_SECONDS + weights * seconds_per_weight / processes + source_bytes * _SECONDS_PER_BYTE


def _seconds(shapes: list[tuple[int, int]], tokens: int, candidates: int = 0) -> float:
    """Returns a rough estimate from the speed of a matrix product on this machine.

    Measuring `candidates` costs a solve of each, the statistics once more, and about two runs' worth of forwards.
    """
    size = 512
    left, right = torch.ones(size, size), torch.ones(size, size)
    left @ right
    start = time.perf_counter()
    for _ in range(4):
        left @ right
    rate = 4 * 2 * size**3 / (time.perf_counter() - start)
    weights = sum(n * k for n, k in shapes)
    forwards = 2 * 4 * weights * tokens  # one for each input group of a block, less what is stopped early
    grams = sum(2 * tokens * k * k for _, k in shapes) / 2
    solves = sum(k**3 + 2 * n * k * k + _SWEEP_FLOPS * n * k for n, k in shapes)
    measured = 3 * forwards + grams + candidates * solves if candidates else 0
    return (forwards + grams + solves + measured) / rate
