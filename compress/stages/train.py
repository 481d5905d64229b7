"""Runs a stage that trains: the student is the result of the stage before, the teacher a dense model.

Both models are in memory as a whole. Trained tensors replace those of the student; all others are copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import devices
from compress.errors import MemoryLimitError, RecipeError
from compress.format import layouts, naming
from compress.format.manifest import MANIFEST
from compress.format.writer import CheckpointWriter
from compress.methods import registry
from compress.models import linears
from compress.models.blocks import BlockWalker
from compress.models.linears import LinearRef
from compress.models.memory import resident_bytes
from compress.models.source import ModelSource
from compress.models.walking.embedding import embedding_name
from compress.models.walking.head import head_name
from compress.progress import Silent
from compress.sizes import format_size
from compress.stages import distributed
from compress.stages.pack import solve_linear
from compress.stages.stage_output import StageOutput
from compress.stages.workspace import work_folder

if TYPE_CHECKING:
    import torch

    from compress.calibration.opening import CalibrationText
    from compress.format.packed import PackedTensor
    from compress.methods.protocol import Trained, TrainMethod
    from compress.progress import Progress
    from compress.recipe import Recipe
    from compress.stages.workspace import Workspace


def teacher_of(recipe: Recipe, first: ModelSource) -> ModelSource | None:
    """Returns the teacher of a stage that trains: the one it names, else `first`, the model the recipe starts from.

    None for a stage that does not train.
    """
    stage = recipe.stages[0]
    if registry.describe(stage.method).kind != "train":
        return None
    named = stage.options.get("teacher")
    return first if named is None else ModelSource.open(named)


def run(
    recipe: Recipe, source: ModelSource, teacher: ModelSource, workspace: Workspace, progress: Progress
) -> StageOutput:
    """Trains the student and writes the shards; a killed run resumes from the trainer's last checkpoint.

    Raises:
        RecipeError: the method needs a teacher other than the student, and they are the same model.
        MethodError: the options do not fit a linear of the student.
        MemoryLimitError: training does not fit below `--max-memory`.
    """
    method, walker = registry.load_train(recipe.stages[0].method), BlockWalker(source)
    check(recipe, walker, teacher)
    text = _text(recipe, walker, teacher, workspace.work)
    tokens_ST = text.tokens(workspace.work, progress)
    distributed.barrier()  # the others read the tokens that are kept now
    trained = _train(recipe, walker, teacher, tokens_ST, workspace.work, progress)
    entries = write(method, walker, workspace, trained.dense, trained.packed)
    linears_packed = sum("role" not in entry for entry in entries.values())
    coverage = {"total_parameters": source.parameters, "packed_linears": linears_packed}
    report = {"training": trained.report, "calibration": text.record}
    return StageOutput(coverage, source.raw_config, source.structure, walker.unused_tensors, text.warnings, report)


def _check_teacher(recipe: Recipe, source: ModelSource, teacher: ModelSource) -> None:
    """Raises RecipeError for a teacher that is the student, MemoryLimitError where both do not fit below the limit."""
    method = registry.load_train(recipe.stages[0].method)
    if method.NEEDS_OTHER_TEACHER and source.fingerprint == teacher.fingerprint:
        raise RecipeError(
            "the teacher is the student itself",
            do="Name another with --teacher, or put the stage after one that compresses",
        )
    if teacher is not source:
        from compress.training.teacher import check_tokenizers

        check_tokenizers(source.tokenizer(), teacher.tokenizer())
    needed = memory_bytes(source, teacher)
    if recipe.max_memory is not None and needed > recipe.max_memory:
        raise MemoryLimitError(
            f"training takes at least {format_size(needed)}: two whole models and the state of AdamW",
            allowed=f"{format_size(recipe.max_memory)} (--max-memory)",
            do="Raise --max-memory; a stage that trains cannot go block by block",
        )


def memory_bytes(source: ModelSource, teacher: ModelSource) -> int:
    """Returns the least memory of a training: both models in float32, and 20 bytes per parameter for the trainer.

    Those are master, gradient, two moments and the best state.
    """
    return resident_bytes() + 4 * teacher.parameters + (4 + 20) * source.parameters


def check(recipe: Recipe, walker: BlockWalker, teacher: ModelSource) -> None:
    """Refuses a stage that cannot train: a teacher that does not suit, options that do not fit a linear, the memory.

    Raises:
        MethodError: the method's options do not fit a linear, whose name it has; or the teacher has other tokens.
        RecipeError: the teacher is the student, or the student rounds inputs.
        MemoryLimitError: both models do not fit below the limit.
    """
    _check_teacher(recipe, walker.source, teacher)
    stage = recipe.stages[0]
    method, config = registry.load_train(stage.method), registry.configure(stage.method, stage.options)
    if walker.source.rounds_inputs:
        raise RecipeError(
            f"{stage.method} on a model whose packed linears round their inputs: rounding has no gradient",
            do="Train before the stage that packs, or pack with --activations none",
        )
    for index in range(len(walker.block_names)):
        for ref in walker.linears(index):
            with solve_linear.naming_the_layer(ref.name):
                method.check(ref.shape, config)


def join(recipe: Recipe, source: ModelSource, teacher: ModelSource | None, folder: Path, *, fresh: bool) -> None:
    """Joins the training that the main process runs in `folder`, unless the stage does not train or is finished."""
    if teacher is not None and (fresh or not (folder / MANIFEST).is_file()):
        walker, work = BlockWalker(source), work_folder(folder)
        distributed.barrier()  # the main process has kept the tokens
        tokens_ST = _text(recipe, walker, teacher, work).tokens(work, Silent())
        _train(recipe, walker, teacher, tokens_ST, work, Silent())


def _text(recipe: Recipe, walker: BlockWalker, teacher: ModelSource, work_dir: Path) -> CalibrationText:
    from compress.calibration.opening import open_text

    return open_text(recipe.calibration, walker, work=work_dir, writer=teacher, limit=recipe.max_memory)


def _train(
    recipe: Recipe,
    walker: BlockWalker,
    teacher: ModelSource,
    tokens_ST: torch.Tensor,
    work_dir: Path,
    progress: Progress,
) -> Trained:
    """Returns the trained tensors; every process calls it, once the main one has kept the calibration tokens."""
    from compress.evaluation.open_model import open_subject
    from compress.training.teacher import check_tokenizers

    stage, source = recipe.stages[0], walker.source
    method, config = registry.load_train(stage.method), registry.configure(stage.method, stage.options)
    student, dense = open_subject(source, device=devices.resolve(recipe.device)), open_subject(teacher)
    check_tokenizers(student.tokenizer, dense.tokenizer)
    return method.train(student.model, dense.model, tokens_ST, config, work_dir, progress)


def write(
    method: TrainMethod,
    walker: BlockWalker,
    workspace: Workspace,
    dense: Mapping[str, torch.Tensor],
    packed: Mapping[str, PackedTensor],
) -> dict[str, Any]:
    """Writes all shards, with `dense` and `packed` instead of the source's tensors; returns the manifest entries.

    Dense tensors are stored in the dtypes that they have in the source.
    """
    writer = CheckpointWriter(workspace.folder, shard_count=len(walker.block_names) + 1)
    prefixes = tuple(f"{name}." for name in walker.block_names)
    outside = [name for name in walker.dense_tensors() if not name.startswith(prefixes)]
    entries: dict[str, Any] = {}
    for step in range(len(walker.block_names) + 1):
        refs = walker.linears(step - 1) if step else []
        names = [n for n in walker.dense_tensors() if n.startswith(prefixes[step - 1])] if step else outside
        # linears that an earlier stage packed and this one did not train stay packed as they are
        linears_packed = {
            ref.name: linear for ref in refs if (linear := packed.get(ref.name) or walker.source.part(ref.name))
        }
        names += list(dict.fromkeys(ref.parameter for ref in refs if ref.name not in linears_packed))
        block_entries = _entries(method, walker, step - 1, linears_packed)
        if not step:
            linears_packed, block_entries = _ends(method, walker, packed)
            names = [name for name in names if name.removesuffix(".weight") not in linears_packed]
        tensors = naming.plane_tensors(linears_packed)
        for name in names:
            trained = dense.get(name)
            tensors[name] = walker.read_dense(name) if trained is None else trained.to(walker.stored_dtype(name)).cpu()
        if not step:
            tensors |= {name: walker.source.read(name) for name in walker.extra_tensors}
        shard = writer.write_shard(step, {name: tensor.contiguous() for name, tensor in tensors.items()})
        workspace.finish_block(step, {"linears": block_entries, "shard": shard.to_dict()})
        entries |= block_entries
    return entries


def _ends(
    method: TrainMethod, walker: BlockWalker, trained: Mapping[str, PackedTensor]
) -> tuple[dict[str, PackedTensor], dict[str, Any]]:
    """Returns the embedding and the head that the source has packed, and their manifest entries.

    A head of its own may have been trained; an embedding stays as it is.
    """
    ends: dict[str, PackedTensor] = {}
    entries: dict[str, Any] = {}
    for parameter in dict.fromkeys(
        walker.tied.get(name, name) for name in (embedding_name(walker.model), head_name(walker.model))
    ):
        name = parameter.removesuffix(".weight")
        part, entry = walker.source.part(name), walker.source.entry(name)
        if part is None or entry is None:
            continue
        ends[name], entries[name] = trained.get(name, part), dict(entry)
        if name in trained:
            ref, w_NK = LinearRef(name, "linear", part.shape, bool(entry["bias"])), layouts.unpack(part)
            did = solve_linear.describe(method, ref, trained[name], w_NK, layouts.unpack(trained[name]), None)
            entries[name] |= did
    return ends, entries


def _entries(
    method: TrainMethod, walker: BlockWalker, index: int, packed: Mapping[str, PackedTensor]
) -> dict[str, Any]:
    """Returns the manifest entries of a block's packed linears; errors are measured against the source's weights."""
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
