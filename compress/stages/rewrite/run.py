"""Runs a stage of kind `rewrite`: the method makes a dense model of another shape, which is written block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress import devices
from compress.format.writer import CheckpointWriter
from compress.methods import registry
from compress.stages.stage_output import StageOutput

if TYPE_CHECKING:
    from compress.models.source import ModelSource
    from compress.progress import Progress
    from compress.recipe import Recipe
    from compress.stages.workspace import Workspace


def run(
    recipe: Recipe,
    source: ModelSource,
    workspace: Workspace,
    progress: Progress,
    original: ModelSource | None = None,
) -> StageOutput:
    """Writes the shards of the rewritten model. A killed run starts over, and gives the same bytes.

    Calibration text that a model writes is written by `original`, by default the source.
    """
    from compress.calibration.opening import open_text
    from compress.models.blocks import BlockWalker

    stage = recipe.stages[0]
    method, config = registry.load_rewrite(stage.method), registry.configure(stage.method, stage.options)
    walker = BlockWalker(source, device=devices.resolve(recipe.device))
    method.check_model(walker, config)
    text, tokens_ST = None, None
    if method.NEEDS:
        data, limit = recipe.calibration, recipe.max_memory
        text = open_text(data, walker, work=workspace.work, writer=original, limit=limit)
        tokens_ST = text.tokens(workspace.work, progress)
    rewritten = method.rewrite(walker, tokens_ST, config, recipe.max_memory, progress)
    writer = CheckpointWriter(workspace.folder, shard_count=rewritten.blocks + 1)
    parameters = 0
    for step, tensors in enumerate(rewritten.shards()):
        shard = writer.write_shard(step, tensors)
        parameters += sum(tensor.numel() for tensor in tensors.values())
        workspace.finish_block(step, {"linears": {}, "shard": shard.to_dict()})
    removed = source.parameters - parameters
    account = {
        "total_parameters": parameters,
        "removed_parameters": removed,
        "share_removed": round(removed / source.parameters, 6),
    }
    # an extra head does not fit a model of another shape
    unused = [*walker.unused_tensors, *walker.extra_tensors]
    warnings, record = ((), {}) if text is None else (text.warnings, {"calibration": text.record})
    return StageOutput(account, rewritten.config, rewritten.structure, unused, warnings, {**rewritten.report, **record})
