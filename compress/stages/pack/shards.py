"""The shards of a pack stage: which are written already, and which tensors of each stay dense."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compress.errors import OutputError
from compress.format import naming
from compress.format.writer import ShardRecord
from compress.models import hub_names

if TYPE_CHECKING:
    import torch

    from compress.progress import Progress, Task
    from compress.stages.pack.block import LinearStage
    from compress.stages.workspace import Workspace


@contextmanager
def resumed(stage: LinearStage, progress: Progress) -> Iterator[tuple[Task, int]]:
    """Yields the progress bar of a pack stage and the number of steps that an earlier run finished.

    Step 0 writes the tensors outside the blocks, step i block i - 1; each ends with a shard and its record. The bar
    counts one for each linear, and one for the end of each step.

    Raises:
        OutputError: a finished shard is not the one that was written.
    """
    walker, workspace = stage.walker, stage.workspace
    finished = records(workspace)
    for shard in finished:
        if not shard.matches(workspace.folder):
            raise OutputError(f"{shard.file} is not the shard that was written", do="Start over with --fresh")
    blocks = [walker.linears(index) for index in range(len(walker.block_names))]
    sizes = [1, *(1 + sum(ref.name not in stage.skipped for ref in refs) for refs in blocks)]
    if finished:
        progress.note(f"Going on at step {len(finished) + 1} of {len(sizes)}: {len(finished)} finished before")
    with progress.stage("Compressing", sum(sizes)) as task:
        if finished:
            task.advance(sum(sizes[: len(finished)]), "finished before")
        yield task, len(finished)


def records(workspace: Workspace) -> list[ShardRecord]:
    """Returns the records of all shards that are written, in order."""
    return [ShardRecord.from_dict(record["shard"]) for record in _records(workspace)]


def entries(workspace: Workspace) -> dict[str, Any]:
    """Returns the manifest entries of all packed linears, in the order of the blocks."""
    return {name: entry for record in _records(workspace) for name, entry in record["linears"].items()}


def _records(workspace: Workspace) -> list[dict[str, Any]]:
    """Returns the records of all finished steps; one that is damaged is an OutputError."""
    finished = workspace.records()
    for step, record in enumerate(finished):
        if not all(isinstance(record.get(key), dict) for key in ("linears", "shard")):
            raise OutputError(f"the record of step {step} in {workspace.work} is damaged", do="Start over with --fresh")
    return finished


def outside_blocks(stage: LinearStage) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Returns the tensors of the first shard: those outside the blocks; and the manifest entries of the packed ones."""
    return dense_tensors(stage, None) | stage.ends.tensors, dict(stage.ends.entries)


def dense_tensors(stage: LinearStage, block: int | None) -> dict[str, torch.Tensor]:
    """Returns the tensors that stay dense in a block (None: outside all blocks), in the dtypes of the checkpoint.

    They have the names of the model; in a stage that packs nothing, those of its architecture's checkpoints.
    """
    walker = stage.walker
    prefixes = tuple(f"{name}." for name in walker.block_names)
    own = (lambda name: not name.startswith(prefixes)) if block is None else (lambda n: n.startswith(prefixes[block]))
    names = [name for name in walker.dense_tensors() if own(name) and name not in stage.ends.parameters]
    tensors = {name: walker.read_dense(name) for name in names}
    if block is None:
        tensors |= {name: walker.source.read(name) for name in walker.extra_tensors}
    else:
        skipped = [ref for ref in walker.linears(block) if ref.name in stage.skipped]
        tensors |= walker.read_skipped([ref for ref in skipped if walker.kept.scheme(ref.name) is None])
    return hub_names.as_stored(walker.model, tensors) if stage.nothing else tensors


def left_alone(stage: LinearStage, block: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Returns planes and manifest entries of skipped linears that are packed in the source, or keep its codes."""
    walker = stage.walker
    kept = {
        ref.name: part
        for ref in walker.linears(block)
        if ref.name in stage.skipped and (part := walker.kept.part(ref.name)) is not None
    }
    return naming.plane_tensors(kept), {name: walker.kept.entry(name) for name in kept}
