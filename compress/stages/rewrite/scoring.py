"""Scores coupled units by gradients, activations or weights, block by block.

Shape letters: S samples, T tokens, H hidden, K in features, U units.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from compress.calibration.taps import tapped
from compress.errors import MethodError
from compress.numerics import importance
from compress.stages.rewrite import gradients

if TYPE_CHECKING:
    from compress.methods.llm_pruner import Config
    from compress.models.blocks import BlockWalker
    from compress.models.linears import LinearRef
    from compress.models.surgery.remove_units import Cut
    from compress.models.surgery.units import Coupled, Member
    from compress.progress import Progress


@dataclass(frozen=True, slots=True)
class Scoring:
    """Inputs of scoring: the model, its sets of units, the options and the calibration text."""

    walker: BlockWalker
    sets: list[Coupled]
    config: Config
    tokens_ST: torch.Tensor  # noqa: N815
    micro_batch: int
    progress: Progress


def scores(work: Scoring, cut: Cut, step: int) -> list[torch.Tensor]:
    """Returns one score per unit of every set, float64 [U], 0 or more, of the model without the units in `cut`.

    Raises:
        MethodError: a score is not finite; the set is named.
    """
    kind = work.config.importance
    if kind == "random":
        generator = torch.Generator().manual_seed(work.config.random_seed + step)
        random = [torch.rand(units.units, generator=generator, dtype=torch.float64) for units in work.sets]
        # times the parameters of a unit, since selection compares scores per parameter
        return [random_U * _parameters(units, work) for units, random_U in zip(work.sets, random, strict=True)]
    values: dict[tuple[str, int | None, int], torch.Tensor] = {}
    if kind == "activation":
        _from_activations(work, cut, values)
    elif kind in importance.TAYLOR:
        _from_gradients(work, cut, values)
    else:
        _from_weights(work, cut, values)
    all_scores = [_units(work, units, values) for units in work.sets]
    for units, score_U in zip(work.sets, all_scores, strict=True):
        if not score_U.isfinite().all():
            raise MethodError("the score of a unit is not finite", layer=units.name or None)
    return all_scores


def _units(work: Scoring, units: Coupled, values: Mapping[tuple[str, int | None, int], torch.Tensor]) -> torch.Tensor:
    """Returns the scores [U] of one set from the values of its members' positions."""
    members = [member for member in units.members if _counts(work.config.importance, member)]
    if work.config.importance == "activation":  # a router is not measured; its experts have its inputs
        members = [member for member in members if (member.tensor, member.expert, member.dim) in values]
    parts = [(values[member.tensor, member.expert, member.dim], member.index_UCF) for member in members]
    if work.config.importance == "activation":
        return importance.units(parts, "mean").sqrt()
    return importance.units(parts, work.config.reduction)


def _counts(kind: str, member: Member) -> bool:
    return member.enters if kind == "activation" else member.scored


def _parameters(units: Coupled, work: Scoring) -> int:
    from compress.models.surgery.units import unit_parameters

    return unit_parameters(units, {name: tuple(p.shape) for name, p in work.walker.model.named_parameters()})


def _wanted(work: Scoring) -> tuple[dict[int, set[str]], dict[str, set[tuple[int | None, int]]]]:
    """Returns block -> parameters that are scored in it, and parameter -> (expert, dimension) of its members."""
    names, places = defaultdict(set), defaultdict(set)
    prefixes = [f"{name}." for name in work.walker.block_names]
    for units in work.sets:
        for member in units.members:
            if not member.scored:
                continue
            places[member.tensor].add((member.expert, member.dim))
            block = next(i for i, prefix in enumerate(prefixes) if member.tensor.startswith(prefix))
            names[block].add(member.tensor)
    return names, places


def _record(
    values: dict[tuple[str, int | None, int], torch.Tensor],
    name: str,
    places: set[tuple[int | None, int]],
    saliency: torch.Tensor,
    vectorize: bool,
) -> None:
    """Records the values along every dimension in which a parameter is a member."""
    for expert, dim in places:
        part = saliency if expert is None else saliency[expert]
        values[name, expert, dim] = importance.positions(part, dim, vectorize=vectorize).cpu()


def _from_gradients(work: Scoring, cut: Cut, values: dict[tuple[str, int | None, int], torch.Tensor]) -> None:
    config, depth = work.config, len(work.walker.block_names)
    names, places = _wanted(work)
    square = config.importance in importance.SECOND_ORDER
    with work.progress.stage("Gradients", 2 * depth) as task:
        hidden = gradients.borders(work.walker, cut, work.tokens_ST, work.micro_batch, task)
        walk = gradients.backward(
            work.walker, cut, hidden, work.tokens_ST, names,
            micro_batch=1 if square else work.micro_batch, square=square, task=task,
        )  # fmt: skip
        for _, gradient_of in walk:
            for name, gradient in gradient_of.items():
                saliency = importance.saliency(config.importance, gradient.weight, gradient.mean, gradient.square)
                _record(values, name, places[name], saliency, config.vectorize)


def _from_weights(work: Scoring, cut: Cut, values: dict[tuple[str, int | None, int], torch.Tensor]) -> None:
    names, places = _wanted(work)
    with work.progress.stage("Reading weights", len(names)) as task:
        for block in sorted(names):
            for name in sorted(names[block]):
                weight = cut.zeroed(name, work.walker.read_dense(name).float())
                saliency = importance.saliency(work.config.importance, weight, None, None)
                _record(values, name, places[name], saliency, vectorize=False)
            task.advance(1, work.walker.block_names[block])


def _from_activations(work: Scoring, cut: Cut, values: dict[tuple[str, int | None, int], torch.Tensor]) -> None:
    """Records the mean square of the input features of all linears that units enter, over the calibration tokens."""
    walker = work.walker
    places: dict[tuple[str, int | None], int] = {
        (member.tensor, member.expert): member.dim for units in work.sets for member in units.members if member.enters
    }

    def place_of(ref: LinearRef) -> tuple[str, int | None]:
        return ref.parameter, ref.experts[2] if ref.kind == "expert" else None

    def walk(index: int, hidden_STH: torch.Tensor) -> None:
        refs = [ref for ref in walker.linears(index) if place_of(ref) in places]
        sums = {ref: torch.zeros(ref.shape[1], dtype=torch.float64) for ref in refs}

        def add(ref: LinearRef, x: torch.Tensor) -> None:
            sums[ref] += x.reshape(-1, ref.shape[1]).double().square().sum(0).cpu()

        block = gradients.load(walker, index, cut)
        with tapped(block, refs, add):
            walker.forward(block, hidden_STH, micro_batch=work.micro_batch, out=hidden_STH)
        walker.free_block(block)
        for ref, sum_K in sums.items():
            tensor, expert = place_of(ref)
            values[tensor, expert, places[tensor, expert]] = sum_K / work.tokens_ST.numel()

    _walk(work, walk)


def influence(work: Scoring) -> torch.Tensor:
    """Returns how much each block changes its input, float64 [depth]: 1 − the mean cosine of input and output."""
    changes: list[float] = []

    def walk(index: int, hidden_STH: torch.Tensor) -> None:
        from compress.models.surgery.remove_units import Cut

        block = gradients.load(work.walker, index, Cut())
        out_STH = work.walker.forward(block, hidden_STH, micro_batch=work.micro_batch)
        work.walker.free_block(block)
        cosine_ST = torch.nn.functional.cosine_similarity(hidden_STH.double(), out_STH.double(), dim=-1)
        changes.append(1 - float(cosine_ST.mean()))
        hidden_STH.copy_(out_STH)

    _walk(work, walk)
    return torch.tensor(changes, dtype=torch.float64)


def _walk(work: Scoring, visit: Callable[[int, torch.Tensor], Any]) -> None:
    """Calls `visit` with every block's index and inputs [S, T, H], which it must replace by the block's outputs."""
    hidden_STH = work.walker.embed(work.tokens_ST)
    with work.progress.stage("Activations", len(work.walker.block_names)) as task:
        for index, name in enumerate(work.walker.block_names):
            visit(index, hidden_STH)
            task.advance(1, name)
