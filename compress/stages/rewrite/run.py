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


def run(recipe: Recipe, source: ModelSource, workspace: Workspace, progress: Progress) -> StageOutput:
    """Writes the shards of the rewritten model. A killed run starts over, and gives the same bytes."""
    from compress.calibration.data import load_tokens
    from compress.models.blocks import BlockWalker

    stage = recipe.stages[0]
    method, config = registry.load_rewrite(stage.method), registry.configure(stage.method, stage.options)
    walker = BlockWalker(source, device=devices.resolve(recipe.device))
    tokens_ST = None
    if method.NEEDS:
        tokens_ST = load_tokens(recipe.calibration, source.tokenizer(), max_seq_len=walker.max_seq_len)
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
    return StageOutput(account, rewritten.config, rewritten.structure, unused, rewritten.report)
