"""Calls a function with every input of the linears of a block. The package's only hooks.

nn.Linear and Conv1D are modules, which torch can hook. Experts that share a parameter are not: where transformers'
experts interface describes their module, its forward is replaced by one that goes expert by expert; any other module
runs its own forward with stand-ins for its parameters.

Shape letters: T tokens, C experts chosen per token, H hidden, K in features, R rows routed to one expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from compress.models.blocks import Block
from compress.models.linears import LinearRef
from compress.models.moe.forward import interface_forward
from compress.models.moe.layouts import Stack, expert_layout
from compress.models.moe.stand_in import Multiply, StandInModule, exchange_class, restore_class

OnInput = Callable[[LinearRef, torch.Tensor], None]
"""Receives a linear and its input x [..., K]."""
Read = Callable[[], torch.Tensor]
"""Returns an input x [..., K] of a linear. Rows of experts are gathered at this call, not before."""
OnInputs = Callable[[Mapping[LinearRef, Read], bool], None]
"""Receives linears with their inputs, before any of these linears is applied, and whether they are all linears of their
parameter that this forward will call with these inputs: False for experts whose products alternate."""
OnOutput = Callable[[str, int, torch.Tensor], None]
"""Receives path of the experts, number of the expert, and its output [R, H]: with its routing weight where the module
multiplies by it, and of the last of its matrices where the module is not of transformers' experts interface."""


class Enough(BaseException):
    """Leaves a forward early; no `except Exception` on the way may catch it."""


def tapped(
    block: Block, refs: Iterable[LinearRef], on_input: OnInput, on_output: OnOutput | None = None
) -> AbstractContextManager[None]:
    """While open, `on_input(ref, x)` is called with every input of the linears `refs`, right before they are applied.

    For experts it is called once per expert and matrix with the rows routed to that expert. Experts of the interface
    are called with no rows too, and with all inputs of one projection before the first of its products. An exception
    leaves the forward.
    """

    def on_inputs(inputs: Mapping[LinearRef, Read], complete: bool) -> None:
        for ref, read in inputs.items():
            on_input(ref, read())

    return tapped_together(block, refs, on_inputs, on_output)


@contextmanager
def tapped_together(
    block: Block, refs: Iterable[LinearRef], on_inputs: OnInputs, on_output: OnOutput | None = None
) -> Iterator[None]:
    """Like `tapped`, but `on_inputs` is called once with all inputs that are known before any of them is multiplied."""
    experts: dict[nn.Module, dict[tuple[str, int], LinearRef]] = {}
    with ExitStack() as stack:
        for ref in refs:
            path = ref.experts[0] if ref.kind == "expert" else ref.name
            module = block.module.get_submodule(path.removeprefix(f"{block.name}."))
            if ref.kind == "expert":
                experts.setdefault(module, {})[ref.experts[1:]] = ref
            else:
                stack.callback(module.register_forward_pre_hook(_hook(ref, on_inputs), with_kwargs=True).remove)
        for module, members in experts.items():
            stack.enter_context(_tapped_experts(module, _Listener(members, on_inputs, on_output)))
        yield


def _hook(ref: LinearRef, on_inputs: OnInputs) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        on_inputs({ref: lambda: x}, True)

    return hook


class _Listener:
    """Passes on the inputs and outputs of one module's experts."""

    def __init__(self, refs: dict[tuple[str, int], LinearRef], on_inputs: OnInputs, on_output: OnOutput | None) -> None:
        self._refs, self._on_inputs, self._on_output = refs, on_inputs, on_output
        self._path = next(iter(refs.values())).experts[0]

    def receives(self, parameter: str, reads: Mapping[int, Read], *, complete: bool) -> None:
        """Passes on the inputs of matrices of one parameter, given by the number of the expert."""
        inputs = {
            self._refs[parameter, number]: read for number, read in reads.items() if (parameter, number) in self._refs
        }
        if inputs:
            self._on_inputs(inputs, complete)

    def gives(self, expert: int, y_RH: torch.Tensor) -> None:
        if self._on_output is not None:
            self._on_output(self._path, expert, y_RH)


@contextmanager
def _tapped_experts(module: nn.Module, listener: _Listener) -> Iterator[None]:
    layout = expert_layout(module)
    assert layout is not None
    exchange_class(module, _Tapped, layout)
    module.__dict__["listener"] = listener
    try:
        yield
    finally:
        del module.__dict__["listener"]
        restore_class(module)


class _Tapped(StandInModule):
    """A dense experts module that reports its experts' inputs and outputs to a listener."""

    listener: _Listener

    def stack_multiply(self, stack: Stack) -> tuple[Multiply, torch.Tensor] | None:
        """Returns the product with a matrix of the dense parameter and reports it to the listener."""
        if self.layout.interface:
            return None
        parameter = self._parameters[stack.parameter]
        assert parameter is not None

        def multiply(expert: int, x: torch.Tensor) -> torch.Tensor:
            # rows of zeros are places of tokens that the module routes elsewhere (Llama 4); they add nothing to a sum
            rows_RK = x.reshape(-1, x.shape[-1])
            rows_RK = rows_RK[rows_RK.any(-1)]
            self.listener.receives(stack.parameter, {expert: lambda: rows_RK}, complete=False)
            y = _times(parameter, stack, expert, x)
            if stack == self.layout.stacks[-1]:
                self.listener.gives(expert, y.reshape(-1, y.shape[-1])[x.reshape(-1, x.shape[-1]).any(-1)])
            return y

        return multiply, parameter

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the output of the module."""
        return self._interface(*args, **kwargs) if self.layout.interface else super().forward(*args, **kwargs)

    def _interface(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        up, down = self.layout.stacks

        def rows(expert: int) -> torch.Tensor:
            return hidden_states[(top_k_index == expert).any(-1)]

        self.listener.receives(up.parameter, {e: partial(rows, e) for e in range(self.layout.experts)}, complete=True)

        def project(parameter: str, expert: int, x_RK: torch.Tensor) -> torch.Tensor:
            stack, weights = self.layout[parameter], self._parameters[parameter]
            assert weights is not None
            return _times(weights, stack, expert, x_RK)

        def before_down(inner_of: Mapping[int, torch.Tensor]) -> None:
            self.listener.receives(
                down.parameter, {e: partial(inner_of.__getitem__, e) for e in inner_of}, complete=True
            )

        return interface_forward(
            self,
            self.layout,
            project,
            hidden_states,
            top_k_index,
            top_k_weights,
            self.listener.gives,
            before_down,
        )


def _times(parameter: torch.Tensor, stack: Stack, expert: int, x: torch.Tensor) -> torch.Tensor:
    """x · Wᵀ with the matrix of one expert."""
    held = parameter.view(-1, *stack.held)[expert]
    return x @ held if stack.transposed else nn.functional.linear(x, held)
