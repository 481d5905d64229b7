"""Measures the loss of each linear at the stage's options, and lets the method allot options by it (SVD-LLM's ratios).

This is a pass over the dense model before anything is packed, for methods with `measure` and `allot`
(`methods.protocol`). Losses are kept block by block in the workspace, so that a killed run does not measure twice, and
allots the same.

Shape letters: S samples, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.calibration import collect as collecting
from compress.errors import MethodError
from compress.format import files
from compress.json_files import read_object
from compress.models import linears
from compress.stages import memory
from compress.stages.pack.solve_linear import naming_the_layer

if TYPE_CHECKING:
    import torch

    from compress.models.blocks import Block
    from compress.models.linears import LinearRef
    from compress.progress import Progress, Task
    from compress.stages.pack.block import LinearStage

_FILE = "losses.json"


def allot(stage: LinearStage, tokens_ST: torch.Tensor, progress: Progress) -> dict[str, dict[str, Any]]:
    """Returns, by linear, the options in which it differs from the stage's; {} for a method that allots nothing.

    Raises:
        MethodError: a loss is not finite; the linear is named.
    """
    method, walker = stage.method, stage.walker
    refs = {
        ref.name: ref
        for index in range(len(walker.block_names))
        for ref in walker.linears(index)
        if ref.name not in stage.skipped
    }
    shapes = {name: ref.shape for name, ref in refs.items()}
    if not method.allot(dict.fromkeys(refs, 1.0), shapes, stage.config):
        return {}  # the answer does not depend on the losses
    losses = _losses(stage, tokens_ST, refs, progress)
    return method.allot({name: losses[name] for name in refs}, shapes, stage.config)


def _losses(
    stage: LinearStage, tokens_ST: torch.Tensor, refs: dict[str, LinearRef], progress: Progress
) -> dict[str, float]:
    """Returns the loss of every linear on its inputs in the dense model."""
    walker, path = stage.walker, stage.workspace.work / _FILE
    losses: dict[str, float] = read_object(path)["losses"] if path.is_file() else {}
    with progress.stage("Measuring", len(refs)) as task:
        task.advance(len(losses), "measured before")
        if refs.keys() <= losses.keys():
            return losses
        hidden_STH = walker.embed(tokens_ST)
        for index in range(len(walker.block_names)):
            block = walker.load_block(index)
            wanted = {ref.name for ref in walker.linears(index)} & refs.keys()
            if not wanted <= losses.keys():
                losses |= _of_block(stage, block, wanted, hidden_STH, task)
                files.write_json(path, {"losses": losses})
            walker.forward(block, hidden_STH, micro_batch=stage.memory_plan.micro_batch, out=hidden_STH)
            walker.free_block(block)
    return losses


def _of_block(
    stage: LinearStage, block: Block, wanted: set[str], hidden_STH: torch.Tensor, task: Task
) -> dict[str, float]:
    losses: dict[str, float] = {}
    for group in collecting.input_groups(stage.walker, block, hidden_STH):
        refs = [ref for ref in group if ref.name in wanted]
        for part in linears.in_batches(refs, stage.memory_plan.experts_at_once):
            losses |= _of_linears(stage, part, hidden_STH, block)
            memory.enforce(stage.memory_limit, part[-1].name)
            task.advance(len(part), part[-1].name)
    return losses


def _of_linears(stage: LinearStage, refs: list[LinearRef], hidden_STH: torch.Tensor, block: Block) -> dict[str, float]:
    stats = collecting.collect(stage.walker, block, refs, hidden_STH, micro_batch=stage.memory_plan.micro_batch)
    losses = {}
    for ref in refs:
        with naming_the_layer(ref.name):
            losses[ref.name] = stage.method.measure(linears.weight(block, ref), stats[ref.name], stage.config)
            if not 0 <= losses[ref.name] < float("inf"):
                raise MethodError(f"the measured loss is {losses[ref.name]}", do="Check the model's weights")
    return losses
