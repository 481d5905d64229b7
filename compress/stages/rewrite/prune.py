"""Prunes a model: scores its units (heads, channels, blocks) and removes the least important ones from all tensors.

Shape letters: S samples, T tokens, H hidden, V vocabulary, U units.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import MemoryLimitError, MethodError
from compress.methods.protocol import Rewritten
from compress.models.hub_names import as_stored
from compress.models.memory import resident_bytes
from compress.models.surgery import remove_blocks, remove_units
from compress.models.surgery.coupled import coupled
from compress.models.surgery.remove_units import Cut
from compress.models.surgery.units import Coupled, Kind, unit_parameters
from compress.numerics import importance
from compress.sizes import format_size
from compress.stages.rewrite import scoring, selection
from compress.stages.rewrite.tensors import names_by_block

if TYPE_CHECKING:
    from compress.methods.llm_pruner import Config
    from compress.models.blocks import BlockWalker
    from compress.models.source import ModelSource
    from compress.progress import Progress

_MICRO_BATCH = 8
"""Sequences scored at once, where memory allows."""
_EXPERT_MULTIPLE = 8
"""Channels of fused experts: rows of 8 bfloat16 numbers are 16 bytes."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """A pruned model that is not written yet."""

    config: Mapping[str, Any]
    """config.json of the result."""
    structure: Mapping[str, Any] | None
    """Shapes that differ from those that config.json implies; None for a plain checkpoint."""
    report: Mapping[str, Any]
    """JSON: what was removed, and the scores it was chosen by."""
    blocks: int
    """Number of blocks that stay."""
    walker: BlockWalker
    cut: Cut
    """Rows and columns removed from the tensors of blocks that stay."""
    gone: tuple[int, ...]
    """Indices of the removed blocks."""

    def shards(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yields the tensors outside the blocks, then those of every block, in the dtypes of the source.

        In a plain checkpoint they have the names of the architecture's checkpoints, in one with a structure those of
        the model.
        """
        renamed = remove_blocks.renaming(self.walker.block_names, self.gone)
        for step, names in enumerate(names_by_block(self.walker)):
            if step - 1 in self.gone:
                continue
            kept = {renamed(n): self.cut.parameter(n, self.walker.read_dense(n)).contiguous() for n in names}
            yield kept if self.structure else as_stored(self.walker.model, kept)


def rewrite(
    walker: BlockWalker,
    tokens_ST: torch.Tensor | None,
    config: Config,
    memory_limit: int | None,
    progress: Progress,
) -> Rewritten:
    """Returns the pruned model as the stage writes it; see `prune` for what is raised."""
    assert tokens_ST is not None, "the method's NEEDS name tokens"
    pruned = prune(walker, walker.source, config, tokens_ST, memory_limit, progress)
    return Rewritten(pruned.config, pruned.structure, {"pruning": pruned.report}, pruned.blocks, pruned.shards)


def check_model(walker: BlockWalker, config: Config) -> None:
    """Raises MethodError or ModelError where the options leave nothing to prune, or too little for the ratio, or where
    the units are not known."""
    depth = len(walker.block_names)
    if config.protect_first + config.protect_last >= depth:
        raise MethodError(
            f"protect_first={config.protect_first} and protect_last={config.protect_last} leave no block to prune",
            allowed=f"together less than the {depth} blocks of the model",
        )
    if config.units == "width":
        sets, shapes = _sets(walker, config), _shapes(walker)
        # whatever the scores will be, the units must be able to lose this many parameters
        groups = _groups(sets, config, [torch.zeros(units.units) for units in sets], shapes)
        nothing = [torch.empty(0, dtype=torch.long) for _ in sets]
        _remove(sets, config, groups, nothing, shapes, _budget(config, shapes, config.steps))


def prune(
    walker: BlockWalker,
    source: ModelSource,
    config: Config,
    tokens_ST: torch.Tensor,
    memory_limit: int | None,
    progress: Progress,
) -> Pruned:
    """Returns the model without its least important units.

    Args:
        walker: of the dense model.
        source: the same model, whose configuration is rewritten.
        config: options of the method.
        tokens_ST: calibration text, int64 token ids.
        memory_limit: bytes that the process may take, or None.
        progress: where the steps are reported to.

    Raises:
        MethodError: the ratio would empty a layer, or a score is not finite.
        MemoryLimitError: scoring would not fit below `memory_limit` bytes.
        ModelError: the heads or channels of the architecture are not known.

    What `check_model` refuses is not checked again.
    """
    work = scoring.Scoring(
        walker, [], config, tokens_ST, _plan(walker, config, tokens_ST, memory_limit, progress), progress
    )
    if config.units == "depth":
        return _shorten(work, source)
    return _narrow(work, source)


def _narrow(work: scoring.Scoring, source: ModelSource) -> Pruned:
    """Removes heads and channels."""
    walker, config = work.walker, work.config
    sets = _sets(walker, config)
    work = dataclasses.replace(work, sets=sets)
    shapes = _shapes(walker)
    total = sum(map(math.prod, shapes.values()))
    removed = [torch.empty(0, dtype=torch.long) for _ in sets]
    scores: list[torch.Tensor] = []
    for step in range(config.steps):
        scores = scoring.scores(work, remove_units.cut(sets, removed), step)
        for score_U, removed_U in zip(scores, removed, strict=True):
            score_U[removed_U] = -1.0  # below all others, which are 0 or more: what is removed stays removed
        groups = _groups(sets, config, scores, shapes)
        removed = _remove(sets, config, groups, removed, shapes, _budget(config, shapes, step + 1))
    cut = remove_units.cut(sets, removed)
    outcome = remove_units.describe(source, walker.model, sets, removed, cut, stock=config.scope != "global")
    remaining = sum(math.prod(cut.shape(name, shape)) for name, shape in shapes.items())
    structure = outcome.structure.to_dict() if outcome.structure else None
    report = _report(config, total, remaining) | {"units": _account(sets, removed, scores)}
    return Pruned(outcome.config, structure, report, len(walker.block_names), walker, cut, ())


def _budget(config: Config, shapes: Mapping[str, tuple[int, ...]], steps: int) -> int:
    """Returns how many parameters have left the model after some of its steps."""
    return math.ceil(config.ratio * sum(map(math.prod, shapes.values())) * steps / config.steps)


def _remove(
    sets: list[Coupled],
    config: Config,
    groups: list[tuple[selection.Candidates, list[int]]],
    removed: list[torch.Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    budget: int,
) -> list[torch.Tensor]:
    """Returns the removed units of every set, so that at least `budget` parameters are removed from the model."""
    total, asked = sum(map(math.prod, shapes.values())), budget
    while True:
        by_score = config.scope == "global" or config.by_score
        counts = selection.choose([group for group, _ in groups], asked, by_score=by_score)
        removed = list(removed)
        for (group, places), count in zip(groups, counts, strict=True):
            for place, removed_U in zip(places, group.least(count), strict=True):
                removed[place] = removed_U
        cut = remove_units.cut(sets, removed)
        remaining = sum(math.prod(cut.shape(name, shape)) for name, shape in shapes.items())
        missing = budget - (total - remaining)
        if missing <= 0:
            return removed
        # hidden channels cross the other units: a weight where they meet was counted twice
        asked += missing


def _shorten(work: scoring.Scoring, source: ModelSource) -> Pruned:
    """Removes whole blocks."""
    walker, config = work.walker, work.config
    shapes, names = _shapes(walker), walker.block_names
    total = sum(map(math.prod, shapes.values()))
    sizes = [sum(math.prod(s) for n, s in shapes.items() if n.startswith(f"{name}.")) for name in names]
    influence = scoring.influence(work)
    free = range(config.protect_first, len(names) - config.protect_last)
    order = sorted(free, key=lambda index: (float(influence[index]), index))
    # the number of blocks that comes nearest to the budget
    budget = config.ratio * total
    best = min(range(len(order) + 1), key=lambda count: abs(sum(sizes[i] for i in order[:count]) - budget))
    gone = sorted(order[:best])
    if not gone or len(gone) == len(names):
        raise MethodError(
            f"ratio={config.ratio} is {'less than half a block' if not gone else 'all blocks'}: "
            f"the {len(names)} blocks hold {sum(sizes) / total:.0%} of the parameters",
            allowed=f"{0.5 * min(sizes) / total:.2f} to {(sum(sizes) - min(sizes)) / total:.2f}",
            do="Prune widths instead: units=width",
        )
    outcome = remove_blocks.describe(source, walker.model, names, gone)
    structure = outcome.structure.to_dict() if outcome.structure else None
    report = _report(config, total, total - sum(sizes[i] for i in gone)) | {
        "blocks_removed": gone,
        "block_influence": [round(float(value), 6) for value in influence],
    }
    return Pruned(outcome.config, structure, report, len(names) - len(gone), walker, Cut(), tuple(gone))


def _sets(walker: BlockWalker, config: Config) -> list[Coupled]:
    """Returns the sets of units that the options allow to prune."""
    kinds: list[Kind] = []
    if config.attention != "none":
        kinds.append("query" if config.attention == "query" else "kv")
    kinds += [kind for kind, wanted in (("mlp", config.mlp), ("hidden", config.hidden)) if wanted]  # type: ignore[misc]
    sets = coupled(walker.model, walker.block_names, tuple(kinds))
    if config.attention == "auto" and all(units.units == 1 for units in sets if units.kind == "kv"):
        kinds[0] = "query"  # one key head for all queries
        sets = coupled(walker.model, walker.block_names, tuple(kinds))
    heads = [units for units in sets if units.kind in ("kv", "query")]
    if config.attention in ("kv", "query") and all(units.units == 1 for units in heads):
        what = "one key head serves all queries" if config.attention == "kv" else "every query has its own key head"
        raise MethodError(
            f"attention={config.attention}, but {what}: no head can be removed",
            allowed=f"auto, none, {'query' if config.attention == 'kv' else 'kv'}",
        )
    last = len(walker.block_names) - config.protect_last
    return [units for units in sets if units.block is None or config.protect_first <= units.block < last]


def _groups(
    sets: list[Coupled], config: Config, scores: list[torch.Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> list[tuple[selection.Candidates, list[int]]]:
    """Returns the groups of sets that lose equally many units, with the indices of their sets."""
    tied: dict[str, list[int]] = {}
    for place, units in enumerate(sets):
        # uniform: all layers whose width is one key of the configuration form one group
        tie = units.tie.rpartition(":")[2] if config.scope == "uniform" else units.tie
        tied.setdefault(tie, []).append(place)
    groups = []
    for tie, places in tied.items():
        counts = {sets[place].units for place in places}
        if len(counts) > 1:
            raise MethodError(
                f"layers have {sorted(counts)} units of {tie!r} and cannot become equally wide by equal cuts",
                allowed="scope=local or scope=global",
            )
        first = sets[places[0]]
        parameters = sum(unit_parameters(sets[place], shapes) for place in places)
        of_places = tuple(scores[place] for place in places)
        groups.append((selection.Candidates(tie, of_places, parameters, _step(first, config.multiple)), places))
    return groups


def _step(units: Coupled, multiple: int) -> int:
    """Returns the multiple in which units of a set are removed: 1 for heads; less than `multiple` for few channels."""
    if units.kind in ("kv", "query"):
        return 1
    # the grouped product of transformers for fused experts needs rows of whole 16 bytes
    step = math.lcm(multiple, _EXPERT_MULTIPLE) if units.members[0].expert is not None else multiple
    while step >= units.units and step > 1:
        step //= 2
    return step


def _shapes(walker: BlockWalker) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter; tied ones count once."""
    return {n: tuple(p.shape) for n, p in walker.model.named_parameters() if n not in walker.tied}


def _plan(walker: BlockWalker, config: Config, tokens_ST: torch.Tensor, limit: int | None, progress: Progress) -> int:
    """Returns the micro-batch of scoring; reports its memory, and raises MemoryLimitError where none fits."""
    samples, tokens = tokens_ST.shape
    state = samples * tokens * walker.state_size * 4  # hidden states at one border of a block, float32
    sizes = [sum(p.numel() for p in walker.model.get_submodule(name).parameters()) * 4 for name in walker.block_names]
    taylor = config.units == "width" and config.importance in importance.TAYLOR
    copies = 1 + taylor * (2 + (config.importance in importance.SECOND_ORDER))
    head = walker.vocab_size * walker.hidden_size * 4 if taylor else 0
    peak = 0
    for micro_batch in (_MICRO_BATCH, 4, 2, 1):
        logits = 4 * micro_batch * tokens * walker.vocab_size * 4 if taylor else 0
        inside = 3 * micro_batch * tokens * max(sizes) // (4 * walker.hidden_size)
        states = (len(sizes) + 2 if taylor else 2) * state
        peak = resident_bytes() + walker.argument_bytes + states + max(copies * max(sizes) + inside, head + logits)
        if limit is None or peak <= limit:
            progress.note(f"Scoring takes about {format_size(peak)}")
            return micro_batch
    raise MemoryLimitError(
        f"scoring takes about {format_size(peak)}, more than the limit of {format_size(limit or 0)}",
        do="Raise --max-memory, lower --samples or --seq-len, or choose importance=activation",
    )


def _report(config: Config, total: int, remaining: int) -> dict[str, Any]:
    return {
        "importance": config.importance if config.units == "width" else "block influence",
        "ratio_asked": config.ratio,
        "ratio": round(1 - remaining / total, 6),
        "parameters_before": total,
        "parameters_after": remaining,
    }


def _account(sets: list[Coupled], removed: list[torch.Tensor], scores: list[torch.Tensor]) -> dict[str, Any]:
    """Returns for every set its units before and after, and the share of the importance that was removed."""
    account: dict[str, Any] = {}
    for units, removed_U, score_U in zip(sets, removed, scores, strict=True):
        positive_U = score_U.clamp_min(0)
        entry: dict[str, Any] = {
            "kind": units.kind,
            "before": units.units,
            "after": units.units - len(removed_U),
            "importance_lost": round(float(positive_U[removed_U].sum() / positive_U.sum().clamp_min(1e-300)), 6),
        }
        if units.kind in ("kv", "query"):
            entry["removed"] = removed_U.tolist()
        account[f"{units.name or 'model'}:{units.kind}"] = entry
    return account
