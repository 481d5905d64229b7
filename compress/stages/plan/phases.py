"""Plans the memory of what follows the compression: the proof of load and the evaluation.

Both go block by block where whole models do not fit below `--max-memory`, or without it into the memory that is free.
The proof runs in a fresh process, beside the process of the run, which waits for it: they count together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from compress.evaluation.reading import residence
from compress.evaluation.reading.residence import Size
from compress.models.memory import check_by_block, resident_bytes

if TYPE_CHECKING:
    from compress.evaluation.asking.default_suite import Chosen
    from compress.models.source import ModelSource
    from compress.recipe import Recipe

FRESH = 470 << 20
"""Resident memory of the process that proves the load, with torch and transformers, before it opens the model: 461 MiB
in one run, with what libraries share counted once more."""
LEFT = 100 << 20
"""What the run's process holds after the compression and not before; an estimate, not measured."""
_MARGIN = 1.1
_FLOAT = 4
_BLOCK_COPIES = 2
"""Peak while a block is proven, in blocks in float32: the decoded block, its planes, and what loading it takes."""
_HEAD = 192 << 20
"""A stretch of the output head, as stored and decoded, and the logits of the texts."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of a run, and where it has the models."""

    name: str
    peak_bytes: int
    by_block: bool
    """Whether models stay on disk and are read one block at a time."""
    left_out: tuple[str, ...] = ()
    """Families of the suite that are not asked, since the models would have to be in memory to write answers."""
    in_memory_bytes: int | None = None
    """What the phase would take with the models in memory; None where they are."""


def proof(size: Size, limit: int | None, base_bytes: int, text_bytes: int = 0, available: int | None = None) -> Phase:
    """Returns the plan of the proof of load.

    Args:
        size: the folder's model.
        limit: largest resident memory of all processes in bytes, or None.
        base_bytes: resident memory of the run's process.
        text_bytes: activations of the longest text.
        available: free memory; asked of the system when not given.
    """
    free = psutil.virtual_memory().available if available is None else available
    whole = base_bytes + proof_bytes(size, by_block=False) + text_bytes
    if whole <= (base_bytes + free if limit is None else limit):
        return Phase("proof of load", whole, by_block=False)
    peak = base_bytes + proof_bytes(size, by_block=True) + text_bytes
    return Phase("proof of load", peak, by_block=True, in_memory_bytes=whole)


def proof_bytes(size: Size, *, by_block: bool) -> int:
    """Returns the peak of the process that proves the load, without the activations of a long text."""
    if by_block:
        weights = _BLOCK_COPIES * size.block_bytes
    else:  # dense tensors in float32, the pages of the files, the planes, and a block of decoded weights
        planes = size.stored_bytes if size.packed else 0
        weights = _FLOAT * (size.parameters - size.packed) + size.stored_bytes + planes + size.block_bytes
    return int(_MARGIN * (FRESH + weights + _HEAD))


def evaluation(
    dense: Size, compressed: Size, limit: int | None, base_bytes: int, suite: Chosen, available: int | None = None
) -> Phase:
    """Returns the plan of the evaluation of both models."""
    where = residence.fit([compressed, dense], limit, base_bytes, available)
    written = tuple(family.name for family in suite.suite.families if family.is_written)
    return Phase(
        "evaluation",
        where.peak_bytes,
        where.on_disk,
        written if where.on_disk else (),
        where.in_memory_bytes if where.on_disk else None,
    )


def check_ahead(recipe: Recipe, source: ModelSource, suite: Chosen | None) -> None:
    """Raises MemoryLimitError where the proof or the evaluation does not fit below the limit even block by block.

    What the compression will make of the model hardly matters for that: a decoded block is as large as a dense one.
    """
    size = Size.of(source)
    check(_after(recipe, size, size, suite), recipe.max_memory)


def of_run(
    recipe: Recipe, source: ModelSource, suite: Chosen | None, *, peak_bytes: int, packed: int, stored_bytes: int
) -> tuple[Phase, ...]:
    """Returns all phases of a run: the compression, the proof of load and, with a suite, the evaluation.

    Args:
        recipe: recipe of the run.
        source: the model.
        suite: what the evaluation asks, or None.
        peak_bytes: of the compression.
        packed: parameters that will be packed.
        stored_bytes: size of the result.
    """
    size = Size.of(source)
    later = _after(recipe, size, size.compressed(packed, stored_bytes), suite)
    return Phase("compression", peak_bytes, by_block=False), *later


def _after(recipe: Recipe, dense: Size, compressed: Size, suite: Chosen | None) -> list[Phase]:
    limit, base_bytes = recipe.max_memory, resident_bytes() + LEFT
    phases = [proof(compressed, limit, base_bytes)]
    if suite is not None:
        phases.append(evaluation(dense, compressed, limit, base_bytes, suite))
    return phases


def check(phases: Sequence[Phase], limit: int | None) -> None:
    """Raises MemoryLimitError if a phase needs more than the limit; it names the least limit that all fit below."""
    worst = max(phases, key=lambda phase: phase.peak_bytes)
    no_evaluation = ", or leave the evaluation out with --no-eval" if worst.name == "evaluation" else ""
    check_by_block(worst.name, worst.peak_bytes, limit, do=f"Raise --max-memory{no_evaluation}")
