"""Raises an error for non-finite scores and names the first layer that produced one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import EvaluationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NotFiniteError(EvaluationError):
    """The model's scores are not finite numbers."""


def not_finite(model: PreTrainedModel, tokens_BT: torch.Tensor, where: str) -> NotFiniteError:
    """Returns the error for a model whose scores on `tokens_BT` (without padding) are not finite numbers."""
    return NotFiniteError(
        f"{where} the model's scores are not finite numbers",
        do="Check the weights; `compress inspect` shows how each layer was packed",
        layer=first_bad_layer(model, tokens_BT),
    )


def first_bad_layer(model: PreTrainedModel, tokens_BT: torch.Tensor) -> str | None:
    """Returns the path of the first module with a non-finite output, in order of execution; None if all are finite."""
    bad: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            if not bad and not all(torch.isfinite(t).all() for t in _tensors(output)):
                bad.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with torch.inference_mode():
            model(tokens_BT.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else None


def _tensors(output: Any) -> Iterable[torch.Tensor]:
    """Yields the floating-point tensors in a module's output."""
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
