"""The shards of a run that are written, and what stays dense in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.errors import OutputError
from compress.format import naming
from compress.format.writer import ShardRecord

if TYPE_CHECKING:
    import torch

    from compress.progress import Progress
    from compress.stages.pack.block import LinearStage
    from compress.stages.workspace import Workspace


def resume(workspace: Workspace, steps: int, progress: Progress) -> int:
    """Returns how many of the steps (shards) an earlier run has finished; one that changed since is an OutputError."""
    found = records(workspace)
    for shard in found:
        if not shard.matches(workspace.folder):
            raise OutputError(f"{shard.file} is not the shard that was written", do="Start over with --fresh")
    if found:
        progress.note(f"Going on at step {len(found) + 1} of {steps}: {len(found)} finished before")
    return len(found)


def records(workspace: Workspace) -> list[ShardRecord]:
    """Returns the records of all shards that are written."""
    return [ShardRecord.from_dict(record["shard"]) for record in workspace.records()]


def entries(workspace: Workspace) -> dict[str, Any]:
    """Returns the manifest entries of all linears that are packed, in the order of the blocks."""
    return {name: entry for record in workspace.records() for name, entry in record["linears"].items()}


def dense_tensors(stage: LinearStage, block: int | None) -> dict[str, torch.Tensor]:
    """Returns what stays dense of a block (None: of everything outside the blocks), in the checkpoint's dtypes."""
    walker = stage.walker
    prefixes = tuple(f"{name}." for name in walker.block_names)
    own = (lambda name: not name.startswith(prefixes)) if block is None else (lambda n: n.startswith(prefixes[block]))
    tensors = {name: walker.read_dense(name) for name in walker.dense_tensors() if own(name)}
    if block is not None:
        skipped = [ref for ref in walker.linears(block) if ref.name in stage.skipped]
        tensors |= walker.read_skipped([ref for ref in skipped if walker.source.scheme(ref.name) is None])
    return tensors


def left_alone(stage: LinearStage, block: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Returns planes and manifest entries of a block's skipped linears that the source has packed: they stay so."""
    source = stage.walker.source
    kept = {
        ref.name: part
        for ref in stage.walker.linears(block)
        if ref.name in stage.skipped and (part := source.part(ref.name)) is not None
    }
    return naming.plane_tensors(kept), {name: source.entry(name) for name in kept}
