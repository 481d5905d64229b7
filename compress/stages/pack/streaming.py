"""Methods that need no data: every linear is solved by itself, read straight from the shards, by several processes.

No block is loaded and nothing runs forward until all are packed; then the packed blocks, read back from disk, give the
logits for the proof of load. Shape letters: S samples, T tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from compress.calibration import collect as collecting
from compress.models.stored import StoredWeight, WeightReader
from compress.stages import memory, proof_reference
from compress.stages.pack import shards
from compress.stages.pack.jobs import Job
from compress.stages.pack.workers import Workers, start_workers

if TYPE_CHECKING:
    from compress.models.linears import LinearRef
    from compress.progress import Progress, Task
    from compress.stages.pack.block import LinearStage

_JOB_WEIGHTS = 1 << 22
"""Small linears are handed out together until they have this many weights."""


def run(stage: LinearStage, tokens_ST: torch.Tensor, progress: Progress) -> torch.Tensor:
    """Compresses all blocks, from where an earlier run stopped, and returns the reference logits float32 [T, V].

    After each block its shard and then its record are on disk, in the order of the blocks. The bytes do not depend on
    the number of processes.
    """
    walker, workspace = stage.walker, stage.workspace
    steps = len(walker.block_names) + 1
    done = shards.resume(workspace, steps, progress)
    for stale in workspace.work.glob("planes-*"):
        stale.unlink()
    linears = [[ref for ref in walker.linears(i) if ref.name not in stage.skipped] for i in range(steps - 1)]
    sizes = [1, *(len(refs) + 1 for refs in linears)]
    with progress.stage("Compressing", sum(sizes)) as task:
        if done:
            task.advance(sum(sizes[:done]), "finished before")
        else:
            _finish_step(stage, 0, shards.dense_tensors(stage, None), {})
            task.advance(1, "embeddings")
            done = 1
        work = {step: _jobs(stage, step, groups) for step, groups in _fused_sets(stage, tokens_ST, done)}
        if work:
            with start_workers(
                stage.workers, WeightReader(walker.source, lambda: walker), walker.source.path
            ) as workers:
                for step, entries in _solved(stage, workers, work, task):
                    planes = [load_file(job.planes) for job in work[step]]
                    tensors = shards.dense_tensors(stage, step - 1) | dict(
                        chain.from_iterable(p.items() for p in planes)
                    )
                    _finish_step(stage, step, tensors, entries)
                    for job in work[step]:
                        job.planes.unlink()
                    task.advance(1, walker.block_names[step - 1])
    return proof_reference.logits(stage, tokens_ST, progress)


def _fused_sets(stage: LinearStage, tokens_ST: torch.Tensor, first: int) -> Iterator[tuple[int, list[list[LinearRef]]]]:
    """Yields step and input groups of every block from step `first` on.

    Only a forward pass tells which linears share an input; blocks of the same structure share the answer.
    """
    walker = stage.walker
    hidden_STH = walker.embed(tokens_ST[:1])
    known: dict[str, list[list[str]]] = {}
    for index, prefix in list(enumerate(walker.block_names))[first - 1 :]:
        refs = {ref.name.removeprefix(prefix): ref for ref in walker.linears(index)}
        shapes = [(name, ref.kind, ref.shape, ref.bias) for name, ref in refs.items()]
        structure = f"{walker.model.get_submodule(prefix)} {shapes}"
        if structure not in known:
            block = walker.load_block(index)
            groups = collecting.input_groups(walker, block, hidden_STH)
            walker.free_block(block)
            known[structure] = [[ref.name.removeprefix(prefix) for ref in group] for group in groups]
        yield index + 1, [[refs[name] for name in group] for group in known[structure]]


def _jobs(stage: LinearStage, step: int, groups: list[list[LinearRef]]) -> list[Job]:
    """Returns the jobs of a block in the order of its linears."""
    jobs: list[Job] = []
    for group in groups:
        stored = [stage.walker.stored(ref) for ref in group if ref.name not in stage.skipped]
        # what is decided for all of a set, or can only be read with all of it, stays in one job
        together = "shared" in stage.method.provided or any(not one.origins for one in stored)
        for part in _parts(stored, math.inf if together else _JOB_WEIGHTS):
            jobs.append(
                Job(
                    linears=tuple(part),
                    method=stage.method.module,
                    configs=tuple(stage.config_of(one.ref.name) for one in part),
                    planes=_planes_file(stage, step, len(jobs)),
                )
            )
    return jobs


def _planes_file(stage: LinearStage, step: int, job: int) -> Path:
    return stage.workspace.work / f"planes-{step:03d}-{job:05d}.safetensors"


def _parts(stored: list[StoredWeight], limit: float) -> Iterator[list[StoredWeight]]:
    """Yields the linears in order, as many at a time as it takes to reach `limit` weights."""
    part: list[StoredWeight] = []
    for one in stored:
        part.append(one)
        if sum(math.prod(each.ref.shape) for each in part) >= limit:
            yield part
            part = []
    if part:
        yield part


def _solved(
    stage: LinearStage, workers: Workers, work: dict[int, list[Job]], task: Task
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields step and manifest entries of each block, in order, once all its jobs are done."""
    answers: dict[Path, dict[str, Any]] = {}
    ahead = iter(work.items())
    step, jobs = next(ahead)
    for answer in chain([None], workers.solve(list(chain.from_iterable(work.values())))):
        if answer is not None:
            job, entries = answer
            answers[job.planes] = entries
            memory.enforce(stage.memory_limit, job.linears[-1].ref.name, workers.process_ids)
            task.advance(len(entries), job.linears[-1].ref.name)
        while all(job.planes in answers for job in jobs):
            yield step, {name: entry for job in jobs for name, entry in answers.pop(job.planes).items()}
            if (following := next(ahead, None)) is None:
                return
            step, jobs = following


def _finish_step(stage: LinearStage, step: int, tensors: dict[str, torch.Tensor], entries: dict[str, Any]) -> None:
    shard = stage.writer.write_shard(step, tensors)
    stage.workspace.finish_block(step, {"linears": entries, "shard": shard.to_dict()})
