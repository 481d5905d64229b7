"""Rounds keys and values to FP8 where attention hands them to the cache, with one scale for each of both.

An attention module gets its cache as `past_key_values`. A hook puts an object in its place that rounds what it is
handed and passes it on, to the cache or, where there is none, back: so keys and values are rounded with and without a
cache, after rotary embeddings, as compressed-tensors rounds them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from compress.errors import ModelError
from compress.format import activations

DTYPE = "fp8"
Scales = Mapping[str, tuple[float, float]]
"""Path of an attention module -> scales of its keys and of its values."""
_HOOK = "_compress_kv_hook"
_ARGUMENT = "past_key_values"
_PROJECTIONS = ("k_proj", "qkv_proj", "kv_b_proj", "c_attn", "query_key_value")
Change = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class _Between:
    """Stands in for the cache of one call."""

    def __init__(self, cache: Any, change: Change) -> None:
        self._cache, self._change = cache, change

    def update(self, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Hands the changed keys and values on, or back where there is no cache."""
        key, value = self._change(key, value)
        return (key, value) if self._cache is None else self._cache.update(key, value, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


def find(root: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Returns the attention modules below `root`, whose own path is `prefix`, that hand keys to a cache, by path."""
    attention = {}
    for path, module in root.named_modules():
        projects = any(name in module._modules for name in _PROJECTIONS)
        if projects and _ARGUMENT in inspect.signature(module.forward).parameters:
            attention[f"{prefix}.{path}".strip(".")] = module
    return attention


def round_in(root: nn.Module, scales: Scales, prefix: str = "") -> None:
    """Has the attention modules below `root` that `scales` names round their keys and values.

    Raises ModelError for a name below `prefix` that is no such module.
    """
    modules = find(root, prefix)
    for name, (key_scale, value_scale) in scales.items():
        if prefix and not name.startswith(f"{prefix}."):
            continue
        if name not in modules:
            raise ModelError("scales of keys and values for what is no attention module", layer=name)

        def change(
            key: torch.Tensor, value: torch.Tensor, key_scale: float = key_scale, value_scale: float = value_scale
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return _rounded(key, key_scale), _rounded(value, value_scale)

        _put(modules[name], change)


def rounds(model: nn.Module) -> bool:
    """Returns whether an attention module of the model rounds its keys and values."""
    return any(_HOOK in module.__dict__ for module in model.modules())


def stop_rounding(root: nn.Module) -> None:
    """Has all attention modules below `root` keep keys and values as they are again."""
    for module in root.modules():
        if _HOOK in module.__dict__:
            module.__dict__.pop(_HOOK).remove()


@contextmanager
def measured(root: nn.Module, prefix: str) -> Iterator[dict[str, list[float]]]:
    """Yields the greatest magnitudes of keys and of values by path, filled by the forwards that run meanwhile."""
    peaks: dict[str, list[float]] = {}
    try:
        for name, module in find(root, prefix).items():
            _put(module, _watch(peaks.setdefault(name, [0.0, 0.0])))
        yield peaks
    finally:
        stop_rounding(root)


def scales_of(peaks: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Returns the scales for greatest magnitudes: peak / 448 in float32."""
    return {
        name: [float(activations.static_plane("fp8_static", torch.tensor(peak))["input_scale"]) for peak in pair]
        for name, pair in peaks.items()
    }


def _watch(seen: list[float]) -> Change:
    def change(key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for place, tensor in enumerate((key, value)):
            seen[place] = max(seen[place], float(tensor.abs().amax()))
        return key, value

    return change


def _rounded(x: torch.Tensor, scale: float) -> torch.Tensor:
    return activations.rounded(x, "fp8_static", {"input_scale": torch.tensor([scale], device=x.device)})


def _put(module: nn.Module, change: Change) -> None:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, _ARGUMENT: _Between(kwargs.get(_ARGUMENT), change)}

    module.__dict__[_HOOK] = module.register_forward_pre_hook(hook, with_kwargs=True)
