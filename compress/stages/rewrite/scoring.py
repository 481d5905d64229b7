"""Scores of coupled units: gradients, activations or the weights alone, gathered block by block.

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
    from compress.models.surgery.coupled import Coupled, Member
    from compress.models.surgery.remove_units import Cut
    from compress.progress import Progress


@dataclass(frozen=True, slots=True)
class Scored:
    """What is scored, and how."""

    walker: BlockWalker
    sets: list[Coupled]
    config: Config
    tokens_ST: torch.Tensor  # noqa: N815
    micro_batch: int
    progress: Progress


def scores(work: Scored, made: Cut, step: int) -> list[torch.Tensor]:
    """Returns one score per unit of every set, float64 [U], 0 or more, of the model without what `made` takes out.

    Raises:
        MethodError: a score is not finite; the set is named.
    """
    kind = work.config.importance
    if kind == "random":
        generator = torch.Generator().manual_seed(work.config.random_seed + step)
        found = [torch.rand(one.units, generator=generator, dtype=torch.float64) for one in work.sets]
        # per parameter, so that the budget falls on large and small units alike
        return [drawn_U * _parameters(one, work) for one, drawn_U in zip(work.sets, found, strict=True)]
    values: dict[tuple[str, int | None, int], torch.Tensor] = {}
    if kind == "activation":
        _from_activations(work, made, values)
    elif kind in importance.TAYLOR:
        _from_gradients(work, made, values)
    else:
        _from_weights(work, made, values)
    found = [_units(work, one, values) for one in work.sets]
    for one, score_U in zip(work.sets, found, strict=True):
        if not score_U.isfinite().all():
            raise MethodError("the score of a unit is not finite", layer=one.name or None)
    return found


def _units(work: Scored, one: Coupled, values: Mapping[tuple[str, int | None, int], torch.Tensor]) -> torch.Tensor:
    members = [member for member in one.members if _counts(work.config.importance, member)]
    if work.config.importance == "activation":  # a router is no linear: it hears what the experts beside it do
        members = [member for member in members if (member.tensor, member.expert, member.dim) in values]
    parts = [(values[member.tensor, member.expert, member.dim], member.index_UCF) for member in members]
    if work.config.importance == "activation":
        return importance.units(parts, "mean").sqrt()
    return importance.units(parts, work.config.reduction)


def _counts(kind: str, member: Member) -> bool:
    return member.enters if kind == "activation" else member.scored


def _parameters(one: Coupled, work: Scored) -> int:
    from compress.models.surgery.coupled import unit_parameters

    return unit_parameters(one, {name: tuple(p.shape) for name, p in work.walker.model.named_parameters()})


def _wanted(work: Scored) -> tuple[dict[int, set[str]], dict[str, set[tuple[int | None, int]]]]:
    """Block -> parameters that are scored in it, and parameter -> the places in which it is a member."""
    names, places = defaultdict(set), defaultdict(set)
    prefixes = [f"{name}." for name in work.walker.block_names]
    for one in work.sets:
        for member in one.members:
            if not member.scored:
                continue
            places[member.tensor].add((member.expert, member.dim))
            block = next(i for i, prefix in enumerate(prefixes) if member.tensor.startswith(prefix))
            names[block].add(member.tensor)
    return names, places


def _read_out(
    values: dict[tuple[str, int | None, int], torch.Tensor],
    name: str,
    places: set[tuple[int | None, int]],
    saliency: torch.Tensor,
    vectorize: bool,
) -> None:
    for expert, dim in places:
        part = saliency if expert is None else saliency[expert]
        values[name, expert, dim] = importance.positions(part, dim, vectorize=vectorize).cpu()


def _from_gradients(work: Scored, made: Cut, values: dict[tuple[str, int | None, int], torch.Tensor]) -> None:
    config, depth = work.config, len(work.walker.block_names)
    names, places = _wanted(work)
    square = config.importance in importance.SECOND_ORDER
    with work.progress.stage("Gradients", 2 * depth) as task:
        hidden = gradients.borders(work.walker, made, work.tokens_ST, work.micro_batch, task)
        walk = gradients.backward(
            work.walker, made, hidden, work.tokens_ST, names,
            micro_batch=1 if square else work.micro_batch, square=square, task=task,
        )  # fmt: skip
        for _, found in walk:
            for name, one in found.items():
                saliency = importance.saliency(config.importance, one.weight, one.mean, one.square)
                _read_out(values, name, places[name], saliency, config.vectorize)


def _from_weights(work: Scored, made: Cut, values: dict[tuple[str, int | None, int], torch.Tensor]) -> None:
    names, places = _wanted(work)
    with work.progress.stage("Reading weights", len(names)) as task:
        for block in sorted(names):
            for name in sorted(names[block]):
                weight = made.zeroed(name, work.walker.read_dense(name).float())
                saliency = importance.saliency(work.config.importance, weight, None, None)
                _read_out(values, name, places[name], saliency, vectorize=False)
            task.advance(1, work.walker.block_names[block])


def _from_activations(work: Scored, made: Cut, values: dict[tuple[str, int | None, int], torch.Tensor]) -> None:
    """Mean square of every input feature of the linears that `enters` names, over all tokens of the calibration."""
    walker = work.walker
    places: dict[tuple[str, int | None], int] = {
        (member.tensor, member.expert): member.dim for one in work.sets for member in one.members if member.enters
    }

    def place_of(ref: LinearRef) -> tuple[str, int | None]:
        return ref.parameter, ref.experts[2] if ref.kind == "expert" else None

    def walk(index: int, hidden_STH: torch.Tensor) -> None:
        refs = [ref for ref in walker.linears(index) if place_of(ref) in places]
        sums = {ref: torch.zeros(ref.shape[1], dtype=torch.float64) for ref in refs}

        def heard(ref: LinearRef, x: torch.Tensor) -> None:
            sums[ref] += x.reshape(-1, ref.shape[1]).double().square().sum(0).cpu()

        block = gradients.load(walker, index, made)
        with tapped(block, refs, heard):
            walker.forward(block, hidden_STH, micro_batch=work.micro_batch, out=hidden_STH)
        walker.free_block(block)
        for ref, sum_K in sums.items():
            tensor, expert = place_of(ref)
            values[tensor, expert, places[tensor, expert]] = sum_K / work.tokens_ST.numel()

    _walk(work, walk)


def influence(work: Scored) -> torch.Tensor:
    """Returns how much each block changes its input, float64 [depth]: 1 − the mean cosine of input and output."""
    found: list[float] = []

    def walk(index: int, hidden_STH: torch.Tensor) -> None:
        from compress.models.surgery.remove_units import Cut

        block = gradients.load(work.walker, index, Cut())
        out_STH = work.walker.forward(block, hidden_STH, micro_batch=work.micro_batch)
        work.walker.free_block(block)
        cosine_ST = torch.nn.functional.cosine_similarity(hidden_STH.double(), out_STH.double(), dim=-1)
        found.append(1 - float(cosine_ST.mean()))
        hidden_STH.copy_(out_STH)

    _walk(work, walk)
    return torch.tensor(found, dtype=torch.float64)


def _walk(work: Scored, visit: Callable[[int, torch.Tensor], Any]) -> None:
    hidden_STH = work.walker.embed(work.tokens_ST)
    with work.progress.stage("Activations", len(work.walker.block_names)) as task:
        for index, name in enumerate(work.walker.block_names):
            visit(index, hidden_STH)
            task.advance(1, name)
