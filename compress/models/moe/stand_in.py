"""Replaces the parameters of an experts module so that its own forward calls a function for every matrix product.

A module that does not follow transformers' experts interface may use its stacked matrices in any way: `x @ W[e]`,
`linear(x, W[e])`, `bmm(x, W)`, `x.matmul(W.view(E, I, H)[e].T)`. A stand-in answers these through torch's
`__torch_function__` protocol and hands expert and input to a function; no list of families is needed.

Shape letters: E experts, T rows, N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import nn

from compress.errors import ModelError
from compress.models.moe.layouts import ExpertLayout, Stack

Multiply = Callable[[int, torch.Tensor], torch.Tensor]
"""(expert, x [..., K]) -> x · Wᵀ [..., N]."""

_PRODUCTS = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm}
_BATCHED = {torch.bmm, torch.Tensor.bmm, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__}


class _StandIn:
    """Base of both kinds: shape, dtype, device and orientation of the replaced tensor."""

    def __init__(self, stack: Stack, multiply: Multiply, like: torch.Tensor, *, flipped: bool = False) -> None:
        self._stack, self._multiply, self._like, self._flipped = stack, multiply, like, flipped
        self.dtype, self.device = like.dtype, like.device

    @property
    def _matrix(self) -> tuple[int, int]:
        rows, columns = self._stack.held
        return (columns, rows) if self._flipped else (rows, columns)

    @property
    def _is_out_in(self) -> bool:
        """Whether the last two dimensions are (N, K)."""
        return self._flipped == self._stack.transposed

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self._matrix)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def dim(self) -> int:
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def transpose(self, first: int, second: int) -> Any:
        if {first % self.ndim, second % self.ndim} != {self.ndim - 2, self.ndim - 1}:
            self._refuse(f"transpose({first}, {second})")
        return type(self)(self._stack, self._multiply, self._like, flipped=not self._flipped)

    @property
    def mT(self) -> Any:  # noqa: N802
        return self.transpose(-2, -1)

    def to(self, *_: Any, **__: Any) -> Any:
        """Products are in the dtype of the activations."""
        return self

    def float(self) -> Any:
        return self

    def contiguous(self) -> Any:
        return self

    def _refuse(self, what: str) -> NoReturn:
        raise ModelError(
            f"its forward uses the experts' parameter {self._stack.parameter!r} in an unexpected way: {what}",
            allowed="products with one expert's matrix, or a batched product with all of them",
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # Python asks for protocols, transformers for its marks on loaded tensors
            raise AttributeError(name)
        self._refuse(name)


class StackStandIn(_StandIn):
    """Stands for the whole parameter, [E, rows, columns] (or [E · rows, columns] until it is viewed as 3-D)."""

    @property
    def shape(self) -> torch.Size:
        rows, columns = self._matrix
        return torch.Size((self._stack.experts, rows, columns))

    def view(self, *shape: Any) -> StackStandIn:
        """Returns itself for the only view that means the same: one matrix per expert."""
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
        if len(wanted) != 3 or any(a not in (b, -1) for a, b in zip(wanted, self.shape, strict=True)):
            self._refuse(f"view{wanted}")
        return self

    reshape = view

    def __len__(self) -> int:
        return self._stack.experts

    def __getitem__(self, expert: Any) -> MatrixStandIn:
        number = int(expert)
        if not -self._stack.experts <= number < self._stack.experts:
            raise IndexError(number)  # ends a `for matrix in stack`
        number %= self._stack.experts
        return MatrixStandIn(self._stack, self._multiply, self._like, flipped=self._flipped, expert=number)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """A batched product: x [E, T, K], one slice per expert."""
        self = next(arg for arg in (*args, *(kwargs or {}).values()) if isinstance(arg, cls))
        if getattr(func, "__name__", "") in vars(nn.init):
            return self  # while transformers loads: packed experts have their codes, and nothing to initialise
        if func not in _BATCHED or kwargs or len(args) != 2 or args[1] is not self or self._is_out_in:
            self._refuse(getattr(func, "__name__", str(func)))
        x_ETK = args[0]
        return torch.stack([self._multiply(expert, x_ETK[expert]) for expert in range(self._stack.experts)])


class MatrixStandIn(_StandIn):
    """Stands for the matrix of one expert."""

    def __init__(
        self, stack: Stack, multiply: Multiply, like: torch.Tensor, *, flipped: bool = False, expert: int = 0
    ) -> None:
        super().__init__(stack, multiply, like, flipped=flipped)
        self._expert = expert

    def transpose(self, first: int, second: int) -> MatrixStandIn:
        if {first % 2, second % 2} != {0, 1}:
            self._refuse(f"transpose({first}, {second})")
        return MatrixStandIn(self._stack, self._multiply, self._like, flipped=not self._flipped, expert=self._expert)

    @property
    def T(self) -> MatrixStandIn:  # noqa: N802
        return self.transpose(0, 1)

    def t(self) -> MatrixStandIn:
        return self.transpose(0, 1)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> torch.Tensor:
        """A product x · Wᵀ, written as `linear(x, W)` or as `x @ W.T`, with W stored either way round."""
        self = next(arg for arg in (*args, *(kwargs or {}).values()) if isinstance(arg, cls))
        if func is nn.functional.linear:
            x, weight, bias = _linear_arguments(*args, **(kwargs or {}))
            if weight is self and self._is_out_in:
                y: torch.Tensor = self._multiply(self._expert, x)
                return y if bias is None else y + bias
        elif func in _PRODUCTS and not kwargs and len(args) == 2 and args[1] is self and not self._is_out_in:
            product: torch.Tensor = self._multiply(self._expert, args[0])
            return product
        self._refuse(f"{getattr(func, '__name__', func)} of a matrix held as {list(self.shape)}")


def _linear_arguments(input: Any, weight: Any, bias: Any = None) -> tuple[Any, Any, Any]:
    return input, weight, bias


class StandInModule(nn.Module):
    """An experts module whose class was exchanged for this one: it computes as before, with stand-ins.

    Everything the module holds stays where it is; methods of its own class are found through `dense_class`.
    """

    dense_class: type[nn.Module]
    layout: ExpertLayout

    def stack_multiply(self, stack: Stack) -> tuple[Multiply, torch.Tensor] | None:
        """Returns what multiplies by a matrix of the stack and a tensor of its dtype and device; None: not now."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        """Parameters and buffers come here: those that are stacks are handed out as stand-ins."""
        stack = next((stack for stack in self.__dict__["layout"].stacks if stack.parameter == name), None)
        if stack is not None and (found := self.stack_multiply(stack)) is not None:
            return StackStandIn(stack, *found)
        try:
            return super().__getattr__(name)
        except AttributeError:
            function = getattr(self.__dict__["dense_class"], name, None)
            if function is None:
                raise
            return function.__get__(self) if callable(function) else function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the output of the module's own forward."""
        return self.dense_class.forward(self, *args, **kwargs)


def exchange_class(module: nn.Module, new: type[StandInModule], layout: ExpertLayout) -> None:
    """Makes `module` an instance of `new`, in place."""
    module.__dict__["dense_class"], module.__dict__["layout"] = type(module), layout
    module.__class__ = new


def restore_class(module: nn.Module) -> None:
    """Undoes `exchange_class`."""
    module.__class__ = module.__dict__.pop("dense_class")
    del module.__dict__["layout"]
