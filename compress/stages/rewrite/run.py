"""The stage of a method that prunes: the model is scored and cut as a whole, and written block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.format.writer import CheckpointWriter
from compress.methods import registry
from compress.stages.finish import Made

if TYPE_CHECKING:
    from compress.models.source import ModelSource
    from compress.progress import Progress
    from compress.recipe import Recipe
    from compress.stages.workspace import Workspace


def run(recipe: Recipe, source: ModelSource, workspace: Workspace, progress: Progress) -> Made:
    """Writes the shards of the pruned model. A killed run starts over: scoring is one pass, and gives the same."""
    from compress.calibration.data import load_tokens
    from compress.models.blocks import BlockWalker
    from compress.stages.rewrite import prune

    stage = recipe.stages[0]
    config = registry.configure(stage.method, stage.options)
    walker = BlockWalker(source)
    tokens_ST = load_tokens(recipe.calibration, source.tokenizer(), max_seq_len=walker.max_seq_len)
    pruned = prune.prune(walker, source, config, tokens_ST, recipe.max_memory, progress)
    writer = CheckpointWriter(workspace.folder, shard_count=pruned.blocks + 1)
    left = 0
    for step, tensors in enumerate(pruned.shards()):
        shard = writer.write_shard(step, tensors)
        left += sum(tensor.numel() for tensor in tensors.values())
        workspace.finish_block(step, {"linears": {}, "shard": shard.to_dict()})
    removed = source.parameters - left
    account = {
        "total_parameters": left,
        "removed_parameters": removed,
        "share_removed": round(removed / source.parameters, 6),
    }
    return Made(account, pruned.config, pruned.structure, walker.unused_tensors, {"pruning": pruned.report})
