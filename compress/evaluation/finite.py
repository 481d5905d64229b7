"""Raises an error for non-finite scores and names the first layer that produced one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from compress.errors import EvaluationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class NotFiniteError(EvaluationError):
    """The model's scores are not finite numbers."""


def not_finite(model: PreTrainedModel, tokens_BT: torch.Tensor, where: str) -> NotFiniteError:
    """Returns the error for a model whose scores on `tokens_BT` (without padding) are not finite numbers."""
    return error_at(first_bad_layer(model, tokens_BT), where)


def error_at(layer: str | None, where: str) -> NotFiniteError:
    """Returns the error that names the first layer with a non-finite output, if one is known."""
    return NotFiniteError(
        f"{where} the model's scores are not finite numbers",
        do="Check the weights; `compress inspect` shows how each layer was packed",
        layer=layer,
    )


def first_bad_layer(model: PreTrainedModel, tokens_BT: torch.Tensor) -> str | None:
    """Returns the path of the first module with a non-finite output, in order of execution; None if all are finite."""
    with bad_outputs(model, "") as bad, torch.inference_mode():
        model(tokens_BT.to(model.device), use_cache=False)
    return bad[0] if bad else None


@contextmanager
def bad_outputs(root: torch.nn.Module, path: str) -> Iterator[list[str]]:
    """While open, collects the path of the first module in `root` with a non-finite output; `path` is that of `root`.

    A module comes before those that contain it.
    """
    bad: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            if not bad and not all(torch.isfinite(t).all() for t in _tensors(output)):
                bad.append(name)

        return hook

    paths = {module: ".".join(part for part in (path, name) if part) for name, module in root.named_modules()}
    handles = [module.register_forward_hook(watch(full)) for module, full in paths.items() if full]
    try:
        yield bad
    finally:
        for handle in handles:
            handle.remove()


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
