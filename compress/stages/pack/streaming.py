"""Packs the linears one by one, for methods that need no data: on an accelerator, or on the CPU in worker processes.

Each weight is read straight from the source's shards: no decoder block is loaded to pack it. Afterwards the packed
blocks are read back from disk, and a forward pass through them gives the logits for the proof of load.

Shape letters: S samples, T tokens, H hidden, V vocabulary.
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
from compress.stages.plan.needs import solving_device

if TYPE_CHECKING:
    from compress.models.linears import LinearRef
    from compress.progress import Progress, Task
    from compress.stages.pack.block import LinearStage

_JOB_WEIGHTS = 1 << 22
"""Small linears are put into one job until it has this many weights."""


def run(stage: LinearStage, tokens_ST: torch.Tensor, progress: Progress) -> torch.Tensor:
    """Packs all blocks that an earlier run has not finished and returns the reference logits, float32 [T, V].

    After each block its shard and then its record are written, in the order of the blocks. The bytes do not depend on
    the number of processes.
    """
    for stale in stage.workspace.work.glob("planes-*"):  # of jobs whose block was not finished
        stale.unlink()
    with shards.resumed(stage, progress) as (task, done):
        if done == 0:
            _finish_step(stage, 0, *shards.outside_blocks(stage))
            task.advance(1, "embeddings")
        jobs = {step: _jobs(stage, step, groups) for step, groups in _input_groups(stage, tokens_ST, max(done, 1))}
        if jobs:
            _solve(stage, jobs, task)
    return proof_reference.logits(stage, tokens_ST, progress)


def _solve(stage: LinearStage, jobs: dict[int, list[Job]], task: Task) -> None:
    """Solves the jobs of all steps, and finishes each step once all its jobs are done."""
    walker = stage.walker
    reader = WeightReader(walker.source, walker.read_dense)
    with start_workers(stage.workers, reader, walker.source.path, solving_device(walker.device)) as workers:
        for step, entries in _solved_steps(stage, workers, jobs, task):
            tensors = shards.dense_tensors(stage, step - 1)
            for job in jobs[step]:
                tensors |= load_file(job.planes)
            _finish_step(stage, step, tensors, entries)
            for job in jobs[step]:
                job.planes.unlink()
            task.advance(1, walker.block_names[step - 1])


def _input_groups(
    stage: LinearStage, tokens_ST: torch.Tensor, first: int
) -> Iterator[tuple[int, list[list[LinearRef]]]]:
    """Yields every step from `first` on, with the linears of its block grouped by the input that they share.

    Only a forward pass shows which linears share an input; it is run once for all blocks of the same structure.
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
    """Returns the jobs of a block, in the order of its linears."""
    jobs: list[Job] = []
    for group in groups:
        stored = [stage.walker.stored(ref) for ref in group if ref.name not in stage.skipped]
        # a group stays in one job if the method decides an option for all of it, or if transformers has to convert its
        # weights, which gives all of them at once
        together = stage.method.joins(stage.config) or any(not weight.origins for weight in stored)
        for part in _parts(stored, math.inf if together else _JOB_WEIGHTS):
            jobs.append(
                Job(
                    linears=tuple(part),
                    method=stage.method.module,
                    configs=tuple(stage.config_of(weight.ref.name) for weight in part),
                    planes=_planes_file(stage, step, len(jobs)),
                )
            )
    return jobs


def _planes_file(stage: LinearStage, step: int, job: int) -> Path:
    return stage.workspace.work / f"planes-{step:03d}-{job:05d}.safetensors"


def _parts(stored: list[StoredWeight], limit: float) -> Iterator[list[StoredWeight]]:
    """Yields the linears in order, in parts that end once they have `limit` weights or more."""
    part: list[StoredWeight] = []
    size = 0
    for linear in stored:
        part.append(linear)
        size += math.prod(linear.ref.shape)
        if size >= limit:
            yield part
            part, size = [], 0
    if part:
        yield part


def _solved_steps(
    stage: LinearStage, workers: Workers, jobs: dict[int, list[Job]], task: Task
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields every step in order with the manifest entries of its linears, as soon as all its jobs are done."""
    answers: dict[Path, dict[str, Any]] = {}
    steps = iter(jobs)
    step = next(steps)
    for job, entries in workers.solve(list(chain.from_iterable(jobs.values()))):
        answers[job.planes] = entries
        memory.enforce(stage.memory_limit, job.linears[-1].ref.name, workers.process_ids)
        task.advance(len(entries), job.linears[-1].ref.name)
        while all(job.planes in answers for job in jobs[step]):
            yield step, {name: entry for job in jobs[step] for name, entry in answers.pop(job.planes).items()}
            if (following := next(steps, None)) is None:
                return
            step = following


def _finish_step(stage: LinearStage, step: int, tensors: dict[str, torch.Tensor], entries: dict[str, Any]) -> None:
    shard = stage.writer.write_shard(step, tensors)
    stage.workspace.finish_block(step, {"linears": entries, "shard": shard.to_dict()})
