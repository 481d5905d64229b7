"""Names the tensors of a model, block by block, for the checkpoint of a rewritten one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.models.blocks import BlockWalker


def names_by_block(walker: BlockWalker) -> list[list[str]]:
    """Returns the names of the model's parameters: those outside the blocks, then those of each block."""
    names = walker.block_names
    prefixes = tuple(f"{name}." for name in names)
    linear = {ref.parameter for index in range(len(names)) for ref in walker.linears(index)}
    stored = sorted({*walker.dense_tensors(), *linear})
    outside = [name for name in stored if not name.startswith(prefixes)]
    return [outside, *([name for name in stored if name.startswith(prefix)] for prefix in prefixes)]
