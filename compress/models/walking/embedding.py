"""Loads only those rows of the token embedding that a batch of tokens needs.

Shape letters: V vocabulary, R rows needed, H hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import CalibrationError, ModelError
from compress.models.weights import Weights, check_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def rows_present(
    model: PreTrainedModel, weights: Weights, tokens: torch.Tensor, device: torch.device
) -> Iterator[None]:
    """While open, the model's token embedding works for the ids in `tokens` as if it were fully loaded.

    The module itself keeps working (some scale what they look up); its weight is the rows needed, and the ids that
    reach it are replaced by their places in these rows.

    Raises:
        CalibrationError: a token id lies outside the vocabulary.
    """
    module = model.get_input_embeddings()
    name = embedding_name(model)
    vocabulary = module.weight.shape[0]
    needed_R = torch.unique(tokens)
    if not len(needed_R) or needed_R[0] < 0 or needed_R[-1] >= vocabulary:
        raise CalibrationError(
            f"token ids reach from {needed_R[0]} to {needed_R[-1]}" if len(needed_R) else "there are no tokens",
            allowed=f"ids from 0 to {vocabulary - 1}, the vocabulary of the model",
            do="Use the model's own tokenizer",
        )
    master = weights.tied.get(name, name)
    table = weights.rows(master)
    if table is None or not isinstance(module, nn.Embedding):
        weights.load([master], device)
        module.weight = model.get_parameter(master)
        yield
        return
    rows_RH = table.rows(needed_R).to(device=device, dtype=torch.float32)
    check_finite(rows_RH, name)
    place_V = torch.zeros(vocabulary, dtype=torch.long, device=device)
    place_V[needed_R.to(device)] = torch.arange(len(needed_R), device=device)

    def to_places(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return tuple(place_V[ids] for ids in args), {key: place_V[ids] for key, ids in kwargs.items()}

    whole, padding = module.weight, module.padding_idx
    module.weight, module.padding_idx = nn.Parameter(rows_RH, requires_grad=False), None
    hook = module.register_forward_pre_hook(to_places, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        module.weight, module.padding_idx = whole, padding


def embedding_name(model: PreTrainedModel) -> str:
    """Returns the dotted name of the token embedding's weight; ModelError when the model names no such module."""
    try:
        module = model.get_input_embeddings()
    except NotImplementedError:
        module = None
    for name, other in model.named_modules():
        if other is module and isinstance(getattr(module, "weight", None), nn.Parameter):
            return f"{name}.weight"
    raise ModelError(
        f"{type(model).__name__} names no module with a weight as its token embedding",
        allowed="models whose get_input_embeddings gives one",
    )
