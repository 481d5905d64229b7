"""The plan of a stage that rewrites or trains a model: what can be said before the model is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.stages import memory, train
from compress.stages.plan.plan import Plan

if TYPE_CHECKING:
    from compress.methods.protocol import RewriteMethod, TrainMethod
    from compress.models.blocks import BlockWalker
    from compress.models.source import ModelSource
    from compress.recipe import Recipe


def make(
    recipe: Recipe, source: ModelSource, walker: BlockWalker, method: RewriteMethod | TrainMethod, config: Any
) -> Plan:
    """Returns the plan of the recipe's only stage."""
    stage, data = recipe.stages[0], recipe.calibration
    blocks = [walker.linears(index) for index in range(len(walker.block_names))]
    output_bytes, micro_batch = float(source.size_bytes), 1
    if method.KIND == "train":
        train.check(recipe, walker)
        peak = train.memory_bytes(source, train.teacher_of(recipe, source) or source)
        micro_batch = config.micro_batch
        if (bits := method.stored_bits(config)) is not None:
            weights = sum(ref.shape[0] * ref.shape[1] for refs in blocks for ref in refs)
            output_bytes *= 1 - weights / source.parameters
            output_bytes += weights * bits / 8
    else:
        peak = memory.resident_bytes() + method.memory_bytes(source.parameters, config)
        output_bytes *= method.kept_share(config)
    return Plan(
        model=recipe.model,
        method=stage.method,
        options=dict(stage.options),
        output=str(recipe.output),
        blocks=len(blocks),
        linears=sum(len(refs) for refs in blocks),
        coverage=None,
        calibration={"source": data.source, "samples": data.samples, "seq_len": data.seq_len},
        bits_per_weight=None,
        allotted=None,
        output_bytes=int(output_bytes),
        source_bytes=source.size_bytes,
        peak_memory_bytes=peak,
        micro_batch=micro_batch,
        then=(),
        seconds=None,
    )
