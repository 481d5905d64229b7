"""Names and splits the tensors of a rewritten model for its checkpoint, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from compress.models.blocks import BlockWalker


def names_by_block(walker: BlockWalker) -> list[list[str]]:
    """Returns the names of the model's parameters: those outside the blocks, then those of each block."""
    names = walker.block_names
    prefixes = tuple(f"{name}." for name in names)
    linear = {ref.parameter for index in range(len(names)) for ref in walker.linears(index)}
    stored = sorted({*walker.dense_tensors(), *linear})
    outside = [name for name in stored if not name.startswith(prefixes)]
    return [outside, *([name for name in stored if name.startswith(prefix)] for prefix in prefixes)]


def as_stored(walker: BlockWalker, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns tensors of the model under the names, and split, as checkpoints of its architecture have them."""
    from transformers.core_model_loading import revert_weight_conversion

    return {name: tensor.contiguous() for name, tensor in revert_weight_conversion(walker.model, tensors).items()}
