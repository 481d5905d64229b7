"""Finds linears whose weight is used outside the linear's own forward."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compress.models.linears import find_linears


def linear_weights(module: nn.Module) -> list[str]:
    """Returns the names of the weights of the linears in `module` that are modules of their own."""
    return [ref.parameter.lstrip(".") for ref in find_linears(module, "") if ref.kind != "expert"]


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While entered, notes in `direct` every weight that an operation uses while its linear is not running."""

    def __init__(self, root: nn.Module, weights: Iterable[str]) -> None:
        """`weights`: dotted names below `root`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.direct: set[str] = set()
        self._running: list[str] = []
        self._hooks = ExitStack()
        self._weights = {name: root.get_parameter(name) for name in weights}  # kept, so that no other gets their ids
        self._names = {_identity(weight): name for name, weight in self._weights.items()}
        for name in self._weights:
            self._mark(root.get_submodule(name.rpartition(".")[0]), name)

    def _mark(self, linear: nn.Module, name: str) -> None:
        def before(*_: Any) -> None:
            self._running.append(name)

        def after(*_: Any) -> None:
            self._running.pop()

        self._hooks.callback(linear.register_forward_pre_hook(before).remove)
        self._hooks.callback(linear.register_forward_hook(after).remove)

    def __exit__(self, *error: Any) -> None:
        self._hooks.close()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            self.note(value)
        return func(*args, **(kwargs or {}))

    def note(self, value: Any) -> None:
        """Adds `value` to `direct` if it is a watched weight whose linear is not running."""
        if isinstance(value, torch.Tensor):
            name = self._names.get(_identity(value))
            if name is not None and name not in self._running:
                self.direct.add(name)


class WatchAttributes(TorchFunctionMode):  # type: ignore[no-untyped-call]
    """While entered, notes in `watch` every weight whose dtype or shape is read while its linear is not running.

    A packed linear has other ones. Code such as `linear(x.to(linear.weight.dtype))`, which DeepSeek-V3.2's indexer has,
    would turn its inputs into integers.
    """

    _READS = (torch.Tensor.dtype.__get__, torch.Tensor.shape.__get__, torch.Tensor.size)  # type: ignore[attr-defined]

    def __init__(self, watch: Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._READS:
            self._watch.note(args[0])
        return func(*args, **(kwargs or {}))


def _identity(tensor: torch.Tensor) -> int:
    """The address of a tensor's memory, which its views share; on meta, where there is none, that of the object."""
    return id(tensor) if tensor.device.type == "meta" else tensor.untyped_storage().data_ptr()
