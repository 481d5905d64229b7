"""Plans a stage before it runs: which linears it compresses, how large the result is, the peak memory and the time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import devices
from compress.calibration.opening import CalibrationText, open_text
from compress.methods import registry
from compress.models.blocks import BlockWalker
from compress.models.memory import resident_bytes
from compress.recipe import DEFAULT_END_BITS
from compress.stages import memory, train
from compress.stages.plan import coverage, ends, engine, estimates, refusals
from compress.stages.plan.needs import check_workers, needs_data, streams
from compress.stages.workspace import work_folder

if TYPE_CHECKING:
    from compress.methods.protocol import PackMethod, RewriteMethod, TrainMethod
    from compress.models.linears import LinearRef
    from compress.models.source import ModelSource
    from compress.recipe import Recipe
    from compress.stages.plan.ends import End
    from compress.stages.plan.phases import Phase


@dataclass(frozen=True, slots=True)
class Plan:
    """What `--dry-run` shows."""

    model: str
    method: str
    options: dict[str, Any]
    output: str
    blocks: int
    linears: int
    """Linears that the stage packs; all linears of the model for a stage that rewrites or trains."""
    kept: int
    """Linears that stay packed as they are in the source."""
    coverage: dict[str, Any] | None
    """Counts of parameters, as in the manifest; None for a stage that packs nothing."""
    calibration: dict[str, Any] | None
    """Source of the text, why it was chosen, samples, length and parts; None where none is needed."""
    bits_per_weight: float | None
    """Estimate for the packed linears; None for a stage that packs nothing."""
    allotted: dict[str, Any] | None
    """With `target_bits`: the number of candidates, and the smallest bits per weight that they allow."""
    output_bytes: int
    source_bytes: int
    peak_memory_bytes: int
    """Of the compression, or of the phase in `phases` that takes most."""
    micro_batch: int
    figures: dict[str, str]
    """Where the estimates come from, by figure."""
    then: tuple[str, ...]
    """Methods of the stages that follow. They are not planned: their input does not exist yet."""
    seconds: float | None
    """Estimated time without the evaluation; None where it depends on the run itself."""
    evaluation: dict[str, Any] | None = None
    """Suite, why it was chosen, and how many items are asked (`default_suite.Chosen.record`); None for a recipe without
    evaluation."""
    engine: str | None = None
    """Engine that the options were chosen for."""
    phases: tuple[Phase, ...] = ()
    """Peak memory of the compression, the proof of load and the evaluation, and whether models are read block by block.
    Empty for a stage that is planned by itself."""

    @property
    def packed_parameters(self) -> int:
        """Parameters that the stage packs, inside and outside the blocks."""
        counts = self.coverage or {"compressed_parameters": 0, "packed_outside_blocks": {}}
        return int(counts["compressed_parameters"] + sum(counts["packed_outside_blocks"].values()))


@dataclass(frozen=True, slots=True)
class PackPlan:
    """The plan of a stage that packs, with what the stage itself needs of it."""

    plan: Plan
    coverage: coverage.Coverage
    memory: memory.MemoryPlan
    text: CalibrationText | None
    """The opened calibration text; None where none is needed."""
    ends: tuple[End, ...]
    """The embedding and the head."""
    kept: frozenset[str]
    """Linears that stay packed as they are in the source."""


def make(recipe: Recipe, source: ModelSource, then: tuple[str, ...] = ()) -> Plan:
    """Returns the plan of the recipe's only stage over `source`; `then` are the methods that follow.

    The calibration text is opened and read, so that what the run would refuse is refused here.

    Raises:
        CompressError: the stage cannot run: see `refusals`, `estimates.plan_memory`, `coverage.account` and
            `calibration.opening`.
    """
    stage, walker = recipe.stages[0], BlockWalker(source, device=devices.resolve(recipe.device))
    method, config = registry.load(stage.method), registry.configure(stage.method, stage.options)
    if method.KIND == "pack":
        return plan_pack(recipe, source, walker, method, config, then).plan
    return _plan_dense(recipe, source, walker, method, config, then)


def plan_pack(
    recipe: Recipe,
    source: ModelSource,
    walker: BlockWalker,
    method: PackMethod,
    config: Any,
    then: tuple[str, ...] = (),
    original: ModelSource | None = None,
) -> PackPlan:
    """Returns the plan of a stage that packs; raises as `make` does.

    `original` writes the calibration text where a model does; by default the source.
    """
    stage, blocks = recipe.stages[0], _linears(walker)
    if streams(stage, method, source):
        check_workers(recipe.workers, walker.device)
    chosen = ends.choose(stage, walker, DEFAULT_END_BITS if method.PACKS else None)
    kept = _kept(walker, blocks, method)
    account = _coverage(recipe, walker, blocks, chosen, method, frozenset(kept))
    left = {*account.skipped, *kept}
    shapes = {ref.name: ref.shape for refs in blocks for ref in refs if ref.name not in left}
    refusals.check_linears(method, config, source, shapes)
    packed_refs = [ref for refs in blocks for ref in refs if ref.name in shapes]
    refusals.check_kv_cache(stage, walker)
    refusals.check_activations(stage, method, config, source, packed_refs)
    largest = max(blocks, key=lambda refs: sum(math.prod(ref.shape) for ref in refs))
    allotted = refusals.check_target_bits(stage, method, config, source, shapes.values(), engine.bits(recipe.engine))
    engine.check(recipe, method, config, shapes, chosen, walker.model, kept)
    end_bytes = [int(ends.size_bytes(end, walker)) for end in chosen if end.packed]
    memory_plan = estimates.plan_memory(recipe, source, walker, method, largest, end_bytes)
    narrowest = min(shapes.values(), key=lambda shape: shape[1], default=None)
    bits, seconds_per_weight = estimates.sample(method, config, narrowest, walker.device) if narrowest else (0.0, 0.0)
    if stage.target_bits is not None:
        bits = stage.target_bits
    text = _text(recipe, walker, original) if needs_data(stage, method) else None
    if text is not None:
        tokens = recipe.calibration.samples * recipe.calibration.seq_len
        seconds = estimates.data_seconds(list(shapes.values()), tokens, allotted["candidates"] if allotted else 0)
        seconds += text.seconds
        timed = "estimated from a matrix product that was timed here"
    else:
        timed = "estimated from a random weight that was packed here"
        seconds = estimates.streaming_seconds(account.compressed, source.size_bytes, seconds_per_weight, recipe.workers)
    dense_bytes = source.decoded_bytes * (1 - account.packed / account.total)
    kept_bytes = sum(entry["size_bytes"] for entry in kept.values())
    solved = sum(math.prod(shape) for shape in shapes.values())
    packed_bytes = solved * bits / 8 + kept_bytes
    plan = _plan(
        recipe,
        source,
        blocks=len(blocks),
        linears=len(shapes),
        kept=len(kept),
        coverage=account.to_dict(),
        calibration=None if text is None else text.record,
        bits_per_weight=8 * packed_bytes / account.compressed if account.compressed else None,
        allotted=allotted,
        output_bytes=int(packed_bytes + sum(ends.size_bytes(end, walker) for end in chosen) + dense_bytes),
        peak_memory_bytes=max(memory_plan.peak_bytes, 0 if text is None else text.peak_bytes),
        micro_batch=memory_plan.micro_batch,
        figures={
            "bits_per_weight": _origin_of_bits(stage.target_bits, narrowest is not None, bool(kept)),
            "output_bytes": "computed from the shapes and the bits per weight",
            "peak_memory_bytes": "estimated from the shapes, the calibration and the memory in use now",
            "seconds": timed,
        },
        then=then,
        seconds=seconds,
    )
    return PackPlan(plan, account, memory_plan, text, chosen, frozenset(kept))


def _origin_of_bits(target: float | None, packs: bool, keeps: bool) -> str:
    """Returns where the bits per weight come from."""
    solved = "measured here on a random weight" if target is None else "as given with --target-bits"
    if not packs:
        return "counted from the codes that are kept" if keeps else "no linear is packed"
    return f"{solved}, and counted from the codes that are kept" if keeps else solved


def _plan_dense(
    recipe: Recipe,
    source: ModelSource,
    walker: BlockWalker,
    method: RewriteMethod | TrainMethod,
    config: Any,
    then: tuple[str, ...],
) -> Plan:
    """Returns the plan of a stage that rewrites or trains."""
    blocks, output_bytes, micro_batch = _linears(walker), float(source.size_bytes), 1
    teacher = train.teacher_of(recipe, source)
    if method.KIND == "rewrite":
        method.check_model(walker, config)
    text = _text(recipe, walker, teacher) if method.KIND == "train" or method.NEEDS else None
    if method.KIND == "train":
        train.check(recipe, walker, teacher or source)
        peak = train.memory_bytes(source, teacher or source)
        micro_batch = config.micro_batch
        if (bits := method.stored_bits(config)) is not None:
            weights = sum(math.prod(ref.shape) for refs in blocks for ref in refs)
            output_bytes = output_bytes * (1 - weights / source.parameters) + weights * bits / 8
    else:
        peak = resident_bytes() + method.memory_bytes(source.parameters, config)
        output_bytes *= method.kept_share(config)
    return _plan(
        recipe,
        source,
        blocks=len(blocks),
        linears=sum(map(len, blocks)),
        kept=0,
        coverage=None,
        calibration=None if text is None else text.record,
        bits_per_weight=None,
        allotted=None,
        output_bytes=int(output_bytes),
        peak_memory_bytes=max(peak, 0 if text is None else text.peak_bytes),
        micro_batch=micro_batch,
        figures={
            "output_bytes": "computed from the size of the source and the options",
            "peak_memory_bytes": "estimated from the number of parameters and the memory in use now",
        },
        then=then,
        seconds=None,
    )


def _plan(recipe: Recipe, source: ModelSource, **figures: Any) -> Plan:
    stage = recipe.stages[0]
    return Plan(
        model=recipe.model,
        method=stage.method,
        options=dict(stage.options),
        output=str(recipe.output),
        engine=recipe.engine,
        source_bytes=source.size_bytes,
        **figures,
    )


def _linears(walker: BlockWalker) -> list[list[LinearRef]]:
    return [walker.linears(index) for index in range(len(walker.block_names))]


def _kept(walker: BlockWalker, blocks: list[list[LinearRef]], method: PackMethod) -> dict[str, Mapping[str, Any]]:
    """Returns the manifest entries of the linears that stay packed as they are in the source."""
    if method.PACKS and not walker.source.keeps_codes:
        return {}
    entries = {ref.name: walker.kept.entry(ref.name) for refs in blocks for ref in refs}
    return {name: entry for name, entry in entries.items() if entry is not None}


def _coverage(
    recipe: Recipe,
    walker: BlockWalker,
    blocks: list[list[LinearRef]],
    chosen: Sequence[End],
    method: PackMethod,
    kept: frozenset[str],
) -> coverage.Coverage:
    """Returns the account of the model; linears that are `kept` count as packed."""
    shapes = {ref.name: ref.shape for refs in blocks for ref in refs}
    dense = {name: walker.dense_shape(name) for name in walker.dense_tensors()}
    skipped = coverage.select(shapes, recipe.skip) if method.PACKS else tuple(shapes)
    skipped = tuple(name for name in skipped if name not in kept)
    refusals.refuse_split_experts((ref for refs in blocks for ref in refs), set(skipped))
    matrices = [
        matrix
        for name, refs in zip(walker.block_names, blocks, strict=True)
        for matrix in coverage.dense_matrices(walker.model.get_submodule(name), name, refs)
    ]
    return coverage.account(shapes, matrices, dense, skipped, recipe.min_coverage if method.PACKS else 0.0, chosen)


def _text(recipe: Recipe, walker: BlockWalker, writer: ModelSource | None) -> CalibrationText:
    work = work_folder(Path(str(recipe.output)))
    return open_text(recipe.calibration, walker, work=work, writer=writer, limit=recipe.max_memory)
