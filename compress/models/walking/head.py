"""Applies the output head a few rows of its weight at a time, so that the whole weight is never in memory.

Shape letters: B samples, T tokens, H hidden, V vocabulary, R rows of one stretch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.errors import ModelError
from compress.models.weights import Weights, check_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STRETCH_BYTES = 64 << 20


@contextmanager
def head_present(model: PreTrainedModel, weights: Weights, device: torch.device) -> Iterator[None]:
    """While open, the model's output head works as if its weight were loaded."""
    head, name = model.get_output_embeddings(), head_name(model)
    master = weights.tied.get(name, name)
    table = weights.rows(master)
    if table is None or not isinstance(head, nn.Linear):
        weights.load([master], device)
        head.weight = model.get_parameter(master)
        yield
        return
    rows = max(1, _STRETCH_BYTES // (4 * head.in_features))

    def forward(x_BTH: torch.Tensor) -> torch.Tensor:
        logits_BTV = x_BTH.new_empty(*x_BTH.shape[:-1], head.out_features)
        for start in range(0, head.out_features, rows):
            stop = min(start + rows, head.out_features)
            w_RH = table.stretch(start, stop).to(x_BTH)
            check_finite(w_RH, name)
            logits_BTV[..., start:stop] = nn.functional.linear(x_BTH, w_RH)
        return logits_BTV if head.bias is None else logits_BTV + head.bias

    head.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del head.forward


def head_name(model: PreTrainedModel) -> str:
    """Returns the dotted name of the output head's weight; ModelError when the model names no such module."""
    module = model.get_output_embeddings()
    for name, other in model.named_modules():
        if other is module and isinstance(getattr(module, "weight", None), nn.Parameter):
            return f"{name}.weight"
    raise ModelError(
        f"{type(model).__name__} names no module with a weight as its output head",
        allowed="models whose get_output_embeddings gives one",
    )
