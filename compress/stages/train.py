"""The stage of a method that trains: the student is what the stage before left, the teacher a dense model.

Both are in memory as a whole. What has been trained takes the place of what the student had; the rest is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import MemoryLimitError, RecipeError
from compress.format import layouts, naming
from compress.format.manifest import MANIFEST
from compress.format.writer import CheckpointWriter
from compress.methods import registry
from compress.models import linears
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.progress import Silent
from compress.sizes import format_size
from compress.stages import distributed, memory
from compress.stages.pack import solve_linear
from compress.stages.stage_output import StageOutput
from compress.stages.workspace import work_folder

if TYPE_CHECKING:
    import torch

    from compress.format.packed import PackedTensor
    from compress.methods.protocol import Trained, TrainMethod
    from compress.progress import Progress
    from compress.recipe import Recipe
    from compress.stages.workspace import Workspace


def teacher_of(recipe: Recipe, first: ModelSource) -> ModelSource | None:
    """Returns the teacher of a stage that trains: the one it names, or the model that the whole recipe began with."""
    stage = recipe.stages[0]
    if registry.describe(stage.method).kind != "train":
        return None
    named = stage.options.get("teacher")
    return first if named is None else ModelSource.open(named)


def run(
    recipe: Recipe, source: ModelSource, teacher: ModelSource, workspace: Workspace, progress: Progress
) -> StageOutput:
    """Trains, and writes the shards. A killed run goes on from the trainer's last checkpoint."""
    method = registry.load_train(recipe.stages[0].method)
    if method.NEEDS_OTHER_TEACHER and source.fingerprint == teacher.fingerprint:
        raise RecipeError(
            "the teacher is the student itself",
            do="Name another with teacher=, or put the stage after one that compresses",
        )
    walker = BlockWalker(source)
    check(recipe, walker)
    needed = memory_bytes(source, teacher)
    if recipe.max_memory is not None and needed > recipe.max_memory:
        raise MemoryLimitError(
            f"training takes more than {format_size(needed)}: two whole models, and what AdamW keeps",
            allowed=f"{format_size(recipe.max_memory)} (--max-memory)",
            do="Raise --max-memory; training is the one kind of stage that does not go block by block",
        )
    trained = _train(recipe, walker, teacher, workspace.work, progress)
    entries = write(method, walker, workspace, trained.dense, trained.packed)
    account = {"total_parameters": source.parameters, "packed_linears": len(entries)}
    return StageOutput(
        account, source.raw_config, source.structure, walker.unused_tensors, {"training": trained.report}
    )


def memory_bytes(source: ModelSource, teacher: ModelSource) -> int:
    """Returns what a training holds at the least: both models in float32, and five numbers for each that is trained."""
    return memory.resident_bytes() + 4 * teacher.parameters + (4 + 20) * source.parameters


def check(recipe: Recipe, walker: BlockWalker) -> None:
    """Raises MethodError for a linear that the method's options cannot treat, with its name."""
    stage = recipe.stages[0]
    method, config = registry.load_train(stage.method), registry.configure(stage.method, stage.options)
    for index in range(len(walker.block_names)):
        for ref in walker.linears(index):
            with solve_linear.naming_the_layer(ref.name):
                method.check(ref.shape, config)


def join(recipe: Recipe, source: ModelSource, teacher: ModelSource | None, folder: Path, *, fresh: bool) -> None:
    """Takes part in the training that the first process runs in `folder`, if that is what the stage does there."""
    if teacher is not None and (fresh or not (folder / MANIFEST).is_file()):
        _train(recipe, BlockWalker(source), teacher, work_folder(folder), Silent())


def _train(recipe: Recipe, walker: BlockWalker, teacher: ModelSource, work_dir: Path, progress: Progress) -> Trained:
    """Returns what the method's trainer makes of the student; every process calls it, the work folder being there."""
    from compress.calibration.data import load_tokens
    from compress.evaluation.open_model import open_subject
    from compress.training.teacher import check_tokenizers

    stage, source = recipe.stages[0], walker.source
    method, config = registry.load_train(stage.method), registry.configure(stage.method, stage.options)
    tokens_ST = load_tokens(recipe.calibration, source.tokenizer(), max_seq_len=walker.max_seq_len)
    student, dense = open_subject(source), open_subject(teacher)
    check_tokenizers(student.tokenizer, dense.tokenizer)
    distributed.barrier()
    return method.train(student.model, dense.model, tokens_ST, config, work_dir, progress)


def write(
    method: TrainMethod,
    walker: BlockWalker,
    workspace: Workspace,
    dense: Mapping[str, torch.Tensor],
    packed: Mapping[str, PackedTensor],
) -> dict[str, Any]:
    """Writes all shards: the source with `dense` and `packed` in place of its own; returns the manifest entries.

    A dense tensor takes the dtype that it has in the source.
    """
    writer = CheckpointWriter(workspace.folder, shard_count=len(walker.block_names) + 1)
    prefixes = tuple(f"{name}." for name in walker.block_names)
    outside = [name for name in walker.dense_tensors() if not name.startswith(prefixes)]
    entries: dict[str, Any] = {}
    for step in range(len(walker.block_names) + 1):
        refs = walker.linears(step - 1) if step else []
        names = [n for n in walker.dense_tensors() if n.startswith(prefixes[step - 1])] if step else outside
        kept = {ref.name: one for ref in refs if (one := packed.get(ref.name) or walker.source.part(ref.name))}
        names += list(dict.fromkeys(ref.parameter for ref in refs if ref.name not in kept))
        tensors = naming.plane_tensors(kept)
        for name in names:
            given = dense.get(name)
            tensors[name] = walker.read_dense(name) if given is None else given.to(walker.stored_dtype(name)).cpu()
        own = _entries(method, walker, step - 1, kept)
        shard = writer.write_shard(step, {name: tensor.contiguous() for name, tensor in tensors.items()})
        workspace.finish_block(step, {"linears": own, "shard": shard.to_dict()})
        entries |= own
    return entries


def _entries(
    method: TrainMethod, walker: BlockWalker, index: int, packed: Mapping[str, PackedTensor]
) -> dict[str, Any]:
    """Returns the manifest entries of a block's packed linears; the error is against what the source has."""
    if not packed:
        return {}
    block = walker.load_block(index)
    entries = {
        ref.name: solve_linear.describe(
            method, ref, packed[ref.name], linears.weight(block, ref), layouts.unpack(packed[ref.name]), None
        )
        for ref in walker.linears(index)
        if ref.name in packed
    }
    walker.free_block(block)
    return entries
