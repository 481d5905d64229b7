"""A device that is not there: its tensors compute on the CPU, but refuse to meet tensors of the CPU.

A mix of devices is an error on a GPU only. `fake_device()` makes it one everywhere, with real values, so that code
whose path depends on them runs as it would there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda:0")
_ATEN = torch.ops.aten
_INDEXING = {_ATEN.index.Tensor, _ATEN.index_put_.default, _ATEN.index_put.default, _ATEN._index_put_impl_.default}
"""Operators whose indices may lie on the CPU."""


class FakeTensor(torch.Tensor):
    """A tensor that says it lies on `DEVICE`; its values are in `inner`, on the CPU."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> FakeTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), inner.stride(), inner.storage_offset(), dtype=inner.dtype, device="meta"
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> Any:
        return self.inner.untyped_storage()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a tensor of a device has no numpy array: bring it to the CPU first")

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __deepcopy__(self, memory: dict[int, Any]) -> FakeTensor:
        copied = FakeTensor(self.inner.detach().clone())
        memory[id(self)] = copied
        return copied

    def __repr__(self, **_: Any) -> str:
        return f"FakeTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def there(tensor: torch.Tensor) -> FakeTensor:
    """Returns a copy of a CPU tensor on the fake device."""
    return FakeTensor(tensor.detach().clone())


def here(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the values of a tensor of either device."""
    return tensor.inner if isinstance(tensor, FakeTensor) else tensor


def _run(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Runs an operator on the values; its results lie on the fake device."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if func is _ATEN.copy_.default:
        func(*tree_map(_value, args), **kwargs)
        return args[0]
    if func not in _INDEXING or not isinstance(args[0], FakeTensor):
        # numbers may come from the CPU, everything else may not
        strangers = [tensor for tensor in tensors if not isinstance(tensor, FakeTensor) and tensor.dim()]
        if strangers:
            raise RuntimeError(f"{func}: a tensor {list(strangers[0].shape)} of the CPU meets tensors of {DEVICE}")
    device = kwargs.get("device")
    known = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, FakeTensor)}
    results = func(
        *tree_map(_value, args), **{**tree_map(_value, dict(kwargs)), **({"device": "cpu"} if device else {})}
    )

    def lift(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else FakeTensor(value)

    return tree_map(lift, results)


def _value(value: Any) -> Any:
    return value.inner if isinstance(value, FakeTensor) else value


class _Moves(TorchFunctionMode):
    """Sends tensors to the fake device and back, and makes new ones there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.cpu:
            return here(args[0])
        if func is torch.Tensor.cuda:
            return _Send.apply(args[0])
        if func is torch.where and len(args) == 3:
            # torch would put a number on the device that it takes the tensor for, where values get lost
            like = next((value for value in args[1:] if isinstance(value, torch.Tensor)), None)
            dtype = None if like is None else like.dtype
            args = (args[0], *(v if isinstance(v, torch.Tensor) else torch.tensor(v, dtype=dtype) for v in args[1:]))
        if func is torch.nn.functional.scaled_dot_product_attention and isinstance(args[0], FakeTensor):
            return _attention(*args, **kwargs)
        if func is torch.Tensor.to and args:
            return _to(args[0], args[1:], kwargs)
        device = kwargs.get("device")
        if device is None or torch.device(device).type != DEVICE.type:
            if device is not None and args and isinstance(args[0], FakeTensor):
                args = (args[0].inner, *args[1:])  # empty_like(x, device="cpu") and the like
            return func(*args, **kwargs)
        kwargs["device"] = "cpu"
        values, pinned = tree_map(_value, args), kwargs.pop("pin_memory", False)
        assert not pinned
        made = func(*values, **kwargs)
        return FakeTensor(made) if isinstance(made, torch.Tensor) else made


class _Send(torch.autograd.Function):
    """A copy on the fake device; gradients come back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return there(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return here(gradient)


class _Bring(torch.autograd.Function):
    """A copy on the CPU; gradients go back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return here(tensor).clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return there(gradient)


def _to(tensor: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    device, dtype, *_ = (
        torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})
        if not (args and isinstance(args[0], torch.Tensor))
        else (args[0].device, args[0].dtype)
    )
    moved = tensor
    if device is not None and (device.type == DEVICE.type) != isinstance(tensor, FakeTensor):
        moved = _Send.apply(tensor) if device.type == DEVICE.type else _Bring.apply(tensor)
    if dtype is not None and dtype != moved.dtype:
        return moved.type(dtype) if not isinstance(moved, FakeTensor) else _ATEN._to_copy.default(moved, dtype=dtype)
    return moved.clone() if kwargs.get("copy") and moved is tensor else moved


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attention step by step: torch's own makes its causal mask where it takes the tensors for, without values."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = there(torch.ones(scores.shape[-2:], dtype=torch.bool).tril())
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(attn_mask.logical_not(), float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1).nan_to_num() @ value  # a row without any key gives zeros


@contextmanager
def fake_device() -> Iterator[torch.device]:
    """While open, tensors can be sent to and made on the device that it gives."""
    run = threading.Thread.run

    def run_there(thread: threading.Thread) -> None:
        with _Moves():  # a mode is open in one thread only
            run(thread)

    threading.Thread.run = run_there  # type: ignore[method-assign]
    try:
        with _Moves():
            yield DEVICE
    finally:
        threading.Thread.run = run  # type: ignore[method-assign]
