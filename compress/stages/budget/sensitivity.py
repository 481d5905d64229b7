"""Measures the loss of each candidate: the model's KL divergence with one set of linears packed, all others dense.

A set is the linears that share an input (q, k and v; gate and up): engines fuse them, so they get one candidate. Each
matrix of an expert is a set of its own. Block by block, every candidate of every set is solved on the dense inputs of
the block and put in its place, the block is run on a few probe sequences, and its outputs are carried through the later
blocks to the logits. Memory holds one block, the inputs of the present block and the carried probes. The number of
carried probes is bounded; where those of the whole model do not fit, the model is measured in parts, and the later
blocks are run once for each part.

All experts of a projection are measured together; one by one they would cost as many forward passes as there are
experts. The divergence is split among them in proportion to error · contribution: the error is relative to the matrix's
own output, ‖(W−Ŵ)X‖²/‖WX‖², and the contribution (`calibration.routing`) contains the frequency and the weight of the
routing.

Shape letters: S samples, T tokens, H hidden, V vocabulary, N out, K in features.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from compress.calibration import collect as collecting
from compress.calibration import routing
from compress.errors import CompressError, MethodError, ModelError
from compress.format import files
from compress.json_files import read_object
from compress.models import linears
from compress.models.walking import packed_weights
from compress.stages import memory
from compress.stages.budget.candidates import settings
from compress.stages.budget.linear_sets import Candidate, LinearSet, from_json, to_json
from compress.stages.pack import solve_linear

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.models.blocks import Block, BlockWalker
    from compress.models.linears import LinearRef
    from compress.progress import Progress, Task
    from compress.stages.pack.block import LinearStage

PROBES_AT_MOST = 8
"""Greatest number of probe sequences; each costs a forward pass per candidate."""
PROBE_BYTES = 128 << 20
"""Bytes of carried hidden states; as much as the inputs of a block take, where that is more."""
_FORWARDS = 18
"""Forward passes over all samples that measuring may cost: about twice those of the run that follows."""
_LOGIT_ELEMENTS = 1 << 24
"""Logits computed at once."""


@dataclass(slots=True)
class _Trial:
    """The hidden states of the probes with one candidate packed, carried to the logits."""

    hidden_STH: torch.Tensor  # noqa: N815
    members: list[tuple[Candidate, float]]
    """The candidates that the divergence is split among, with the share of each."""


def measure(stage: LinearStage, tokens_ST: torch.Tensor, progress: Progress) -> list[LinearSet]:
    """Returns all sets of the model with their measured candidates; parts measured by an earlier start are read."""
    walker = stage.walker
    depth = len(walker.block_names)
    counts = [sum(ref.name not in stage.skipped for ref in walker.linears(index)) for index in range(depth)]
    hidden_STH = walker.embed(tokens_ST)
    sets: list[LinearSet] = []
    with progress.stage("Measuring", sum(counts)) as task:
        start = 0
        while start < depth:
            block = walker.load_block(start)
            groups = len(collecting.input_groups(walker, block, hidden_STH))
            walker.free_block(block)
            probes, blocks = _portion(hidden_STH, groups * len(settings(stage.method, stage.config, stage.bits)), depth)
            stop = min(start + blocks, depth)
            path = stage.workspace.work / f"candidates-{start:03d}.json"
            if path.is_file():
                sets += from_json(read_object(path)["sets"])
                _walk(stage, range(start, stop), hidden_STH)
                task.advance(sum(counts[start:stop]), "measured before")
            else:
                part = _measure_blocks(stage, range(start, stop), hidden_STH, probes, task)
                files.write_json(path, {"sets": to_json(part)})
                sets += part
            start = stop
    return sets


def _portion(hidden_STH: torch.Tensor, trials: int, depth: int) -> tuple[int, int]:
    """Returns the number of probe sequences, and of blocks whose trials are carried to the logits together."""
    samples = hidden_STH.shape[0]
    sample_bytes = hidden_STH[0].numel() * hidden_STH.element_size()
    room = max(hidden_STH.numel() * hidden_STH.element_size(), PROBE_BYTES) // sample_bytes
    probes = min(samples, PROBES_AT_MOST, room // trials, 2 * _FORWARDS * samples // (trials * depth))
    probes = max(1, probes)
    return probes, max(1, room // (trials * probes))


def _walk(stage: LinearStage, blocks: range, hidden_STH: torch.Tensor) -> None:
    """Moves the dense hidden states past `blocks`, in place."""
    for index in blocks:
        block = stage.walker.load_block(index)
        stage.walker.forward(block, hidden_STH, micro_batch=stage.memory_plan.micro_batch, out=hidden_STH)
        stage.walker.free_block(block)


def _measure_blocks(
    stage: LinearStage, blocks: range, hidden_STH: torch.Tensor, probes: int, task: Task
) -> list[LinearSet]:
    """Returns the sets of `blocks`; `hidden_STH`, their dense inputs, becomes the input of the next block."""
    walker, micro_batch = stage.walker, stage.memory_plan.micro_batch
    sets: list[LinearSet] = []
    trials: list[_Trial] = []
    dense_STH = hidden_STH[:probes].clone()
    for index in range(blocks.start, len(walker.block_names)):
        block = walker.load_block(index)
        for trial in trials:
            walker.forward(block, trial.hidden_STH, micro_batch=micro_batch, out=trial.hidden_STH)
        if index in blocks:
            for group in collecting.input_groups(walker, block, hidden_STH):
                if refs := [ref for ref in group if ref.name not in stage.skipped]:
                    of_group, trials_of_group = _try_group(stage, block, refs, hidden_STH, dense_STH, task)
                    sets += of_group
                    trials += trials_of_group
            walker.forward(block, hidden_STH, micro_batch=micro_batch, out=hidden_STH)
        walker.forward(block, dense_STH, micro_batch=micro_batch, out=dense_STH)
        walker.free_block(block)
    for trial, lost in zip(trials, _divergences(walker, dense_STH, [t.hidden_STH for t in trials]), strict=True):
        for candidate, share in trial.members:
            candidate.loss = lost * share
    for part in sets:
        part.candidates = [candidate for candidate in part.candidates if math.isfinite(candidate.loss)]
        if not part.candidates:
            raise ModelError(
                "every candidate for this layer gives non-finite logits",
                do="Check the model's weights, or leave the layer dense with --skip",
                layer=part.linears[0],
            )
    return sets


def _try_group(
    stage: LinearStage,
    block: Block,
    refs: list[LinearRef],
    hidden_STH: torch.Tensor,
    dense_STH: torch.Tensor,
    task: Task,
) -> tuple[list[LinearSet], list[_Trial]]:
    """Returns the sets of linears with one input, and a trial for each candidate."""
    micro_batch = stage.memory_plan.micro_batch
    alone = refs[0].kind == "expert"
    weights = {ref.name: partial(linears.weight, block, ref) for ref in refs}
    configs = _configs(stage, refs, weights)
    contributions = (
        routing.contributions(stage.walker, block, refs, hidden_STH, micro_batch=micro_batch) if alone else {}
    )
    packed: list[dict[str, PackedTensor]] = [{} for _ in configs]
    errors: list[dict[str, float]] = [{} for _ in configs]
    for at_hand in linears.in_batches(refs, stage.memory_plan.experts_at_once):
        stats = collecting.collect(stage.walker, block, at_hand, hidden_STH, micro_batch=micro_batch)
        for ref in at_hand:
            for place, (_, of_linear) in enumerate(configs):
                packed[place][ref.name], _, entry = solve_linear.solve(
                    stage.method, ref, weights[ref.name](), stats[ref.name], of_linear[ref.name]
                )
                errors[place][ref.name] = entry["relative_error"]
            memory.enforce(stage.memory_limit, ref.name)
            task.advance(1, ref.name)
    sets = [LinearSet([ref.name for ref in members], sum(math.prod(ref.shape) for ref in members))
            for members in ([[ref] for ref in refs] if alone else [refs])]  # fmt: skip
    trials = []
    for place, (override, of_linear) in enumerate(configs):
        out_STH = _with_packed(stage, block, refs, packed[place], dense_STH)
        shares = {
            ref.name: errors[place][ref.name] * contributions[ref.experts[0], ref.experts[2]] for ref in refs if alone
        }
        whole = sum(shares.values()) or 1.0
        shared_by = []
        for part in sets:
            overrides = {name: _overrides(stage, of_linear[name], packed[place][name]) for name in part.linears}
            size_bits = sum(8 * packed[place][name].size_bytes for name in part.linears)
            part.candidates.append(Candidate(dict(override), overrides, size_bits, math.nan))
            shared_by.append((part.candidates[-1], shares[part.linears[0]] / whole if alone else 1.0))
        trials.append(_Trial(out_STH, shared_by))
    return sets, trials


def _configs(
    stage: LinearStage, refs: list[LinearRef], weights: dict[str, Any]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Returns each candidate that all of `refs` can take, with the Config of every linear."""
    possible = []
    refused: CompressError | None = None
    for override in settings(stage.method, stage.config, stage.bits):
        config = dataclasses.replace(stage.config, **override)
        try:
            for ref in refs:
                stage.method.check(ref.shape, config)
        except CompressError as error:
            refused = error
            continue
        of_linear = dict.fromkeys(weights, config)
        possible.append((override, solve_linear.shared_configs(stage.method, of_linear, weights)))
    if not possible:
        raise MethodError(f"no candidate fits this layer: {refused}", layer=refs[0].name)
    return possible


def _overrides(stage: LinearStage, config: Any, packed: PackedTensor) -> dict[str, Any]:
    """Returns the options in which `config` differs from the stage's, and those that pin the linear to its size."""
    pinned = stage.method.pinned(config, packed)
    names = [option.name for option in dataclasses.fields(config)]
    decided = {name: value for name in names if (value := getattr(config, name)) != getattr(stage.config, name)}
    return decided | pinned


def _with_packed(
    stage: LinearStage, block: Block, refs: list[LinearRef], packed: dict[str, PackedTensor], dense_STH: torch.Tensor
) -> torch.Tensor:
    """Returns the block's outputs with `refs` packed; the block is restored afterwards."""
    dense = {ref.name: linears.weight(block, ref) for ref in refs}
    for ref in refs:
        packed_weights.put(block, ref, packed[ref.name])
    out_STH = stage.walker.forward(block, dense_STH, micro_batch=stage.memory_plan.micro_batch)
    for ref in refs:
        packed_weights.restore(block, ref, dense[ref.name])
    return out_STH


def _divergences(walker: BlockWalker, dense_STH: torch.Tensor, trials: list[torch.Tensor]) -> list[float]:
    """Returns the mean KL divergence from the dense model per token, in nats, for outputs of the last block."""
    samples, tokens, _ = dense_STH.shape
    at_once = max(1, _LOGIT_ELEMENTS // (tokens * walker.vocab_size))
    total = torch.zeros(len(trials), dtype=torch.float64)
    for sample in range(samples):
        dense_TV = walker.logits(dense_STH[sample : sample + 1])[0].log_softmax(-1)
        for start in range(0, len(trials), at_once):
            part = torch.stack([trial[sample] for trial in trials[start : start + at_once]])
            for place, logits_TV in enumerate(walker.logits(part), start):
                lost_T = (dense_TV.exp() * (dense_TV - logits_TV.log_softmax(-1))).sum(-1)
                total[place] += float(lost_T.sum(dtype=torch.float64))
    return (total / (samples * tokens)).clamp_min(0).tolist()  # type: ignore[no-any-return]
