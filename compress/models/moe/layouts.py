"""Detects how a module stores its experts' matrices: parameter names, number of experts, orientation.

Shape letters: E experts, N out features, K in features, H hidden, I width inside an expert.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

_MARKS = ("has_gate", "has_bias", "is_transposed", "is_concatenated")
"""Attributes that transformers' `use_experts_implementation` sets on an experts module to describe it."""


@dataclass(frozen=True, slots=True)
class Stack:
    """One parameter that holds one matrix of every expert."""

    parameter: str
    """Name of the parameter within its module."""
    experts: int
    shape: tuple[int, int]
    """(N, K) of one expert's matrix, also where the module stores it transposed."""
    transposed: bool = False
    """The module holds each matrix as [K, N]."""
    flat: bool = False
    """The parameter is 2-D: the experts' matrices one below the other."""

    @property
    def held(self) -> tuple[int, int]:
        """Shape of one expert's matrix as the module holds it."""
        rows, columns = self.shape
        return (columns, rows) if self.transposed else (rows, columns)


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """The stacks of one module, in the order in which its forward uses them."""

    stacks: tuple[Stack, ...]
    interface: bool
    """The module follows transformers' experts interface: its attributes define its forward (see `forward`).
    Otherwise its own forward runs, with stand-ins for its parameters (see `stand_in`)."""

    def __getitem__(self, parameter: str) -> Stack:
        return next(stack for stack in self.stacks if stack.parameter == parameter)

    @property
    def experts(self) -> int:
        """Number of experts that a router chooses among."""
        return self.stacks[0].experts


def expert_layout(module: nn.Module) -> ExpertLayout | None:
    """Returns the layout of the experts in `module`; None if it has none or the layout is unknown."""
    if isinstance(module, nn.Linear | nn.Embedding | nn.modules.conv._ConvNd):
        return None
    layout = _marked(module) if _is_marked(module) else next(filter(None, (rule(module) for rule in _RULES)), None)
    return layout if layout is not None and _only_known_parameters(module, layout) else None


def refusal(module: nn.Module) -> str:
    """Returns the reason why `expert_layout` returns None for a module that seems to hold experts."""
    marks = ", ".join(f"{mark}: {getattr(module, mark, 'not described')}" for mark in _MARKS)
    parameters = ", ".join(f"{name} {list(value.shape)}" for name, value in module.named_parameters(recurse=False))
    return f"{type(module).__name__} holds its experts in an unknown layout: {marks}; {parameters or 'no parameters'}"


def _is_marked(module: nn.Module) -> bool:
    return any(isinstance(getattr(module, mark, None), bool) for mark in _MARKS)


def _marked(module: nn.Module) -> ExpertLayout | None:
    """The layout from transformers' attributes: all must be present and fit the shapes of the parameters."""
    from transformers.integrations import moe

    marks = {mark: getattr(module, mark, None) for mark in _MARKS}
    if not all(isinstance(value, bool) for value in marks.values()):
        return None
    default_gate = getattr(type(module), "_apply_gate", None) is moe._default_apply_gate
    if marks["has_gate"] and not marks["is_concatenated"] and default_gate:
        return None  # interleaved rows need a gate that knows it; the default one cuts them in halves
    up = "gate_up_proj" if marks["has_gate"] else "up_proj"
    tensors = _parameter(module, up, dims=3), _parameter(module, "down_proj", dims=3)
    if tensors[0] is None or tensors[1] is None:
        return None
    transposed = marks["is_transposed"] is True
    stacks = _of_tensor(up, tensors[0], transposed), _of_tensor("down_proj", tensors[1], transposed)
    if stacks[0].experts != stacks[1].experts or not _fit(*stacks, halves=2 if marks["has_gate"] else 1):
        return None
    for stack in stacks:
        bias = _parameter(module, f"{stack.parameter}_bias", dims=2)
        expected = (stack.experts, stack.shape[0]) if marks["has_bias"] else None
        if (None if bias is None else tuple(bias.shape)) != expected:
            return None
    return ExpertLayout(stacks, interface=True)


def _pair(module: nn.Module) -> ExpertLayout | None:
    """Unmarked `gate_up_proj` and `down_proj` (Llama 4): only one way round makes the widths fit.

    LongCat-Flash holds matrices of `gate_up_proj` for its experts that do nothing too, more than of `down_proj`.
    """
    up, down = (_parameter(module, name, dims=3) for name in ("gate_up_proj", "down_proj"))
    if up is None or down is None:
        return None
    for transposed in (False, True):
        stacks = _of_tensor("gate_up_proj", up, transposed), _of_tensor("down_proj", down, transposed)
        if _fit(*stacks, halves=2):
            return ExpertLayout(stacks, interface=False)
    return None


def _parallel(module: nn.Module) -> ExpertLayout | None:
    """One `weight` [E, N, K] whose module has `num_experts`, `output_size` and `input_size` (JetMoE)."""
    weight = _parameter(module, "weight", dims=3)
    named = tuple(getattr(module, name, None) for name in ("num_experts", "output_size", "input_size"))
    if weight is None or tuple(weight.shape) != named:
        return None
    return ExpertLayout((_of_tensor("weight", weight, transposed=False),), interface=False)


def _flat_glu(module: nn.Module) -> ExpertLayout | None:
    """`w1`, `v1` [E·I, H] used as they are and `w2` [E·I, H] used transposed, E in `moe_num_experts` (DBRX)."""
    tensors = [_parameter(module, name, dims=2) for name in ("w1", "v1", "w2")]
    inner, hidden, experts = (
        getattr(module, name, None) for name in ("ffn_hidden_size", "hidden_size", "moe_num_experts")
    )
    if not (isinstance(inner, int) and isinstance(hidden, int) and isinstance(experts, int)):
        return None
    if any(tensor is None or tuple(tensor.shape) != (experts * inner, hidden) for tensor in tensors):
        return None
    up = [Stack(name, experts, (inner, hidden), flat=True) for name in ("w1", "v1")]
    return ExpertLayout((*up, Stack("w2", experts, (hidden, inner), transposed=True, flat=True)), interface=False)


_RULES: tuple[Callable[[nn.Module], ExpertLayout | None], ...] = (_pair, _parallel, _flat_glu)


def _parameter(module: nn.Module, name: str, dims: int) -> torch.Tensor | None:
    tensor = module._parameters.get(name)
    return tensor if tensor is not None and tensor.dim() == dims else None


def _of_tensor(name: str, tensor: torch.Tensor, transposed: bool) -> Stack:
    experts, rows, columns = tensor.shape
    return Stack(name, experts, (columns, rows) if transposed else (rows, columns), transposed)


def _fit(up: Stack, down: Stack, halves: int) -> bool:
    """Whether the widths fit: `up` (split into `halves`) feeds `down`, whose output is as wide as the input of `up`."""
    (up_out, up_in), (down_out, down_in) = up.shape, down.shape
    return up.experts >= down.experts and up_in == down_out and up_out == halves * down_in


def _only_known_parameters(module: nn.Module, layout: ExpertLayout) -> bool:
    """Whether the module has no matrices of its own beside the stacks and their biases."""
    known = {stack.parameter for stack in layout.stacks} | {f"{stack.parameter}_bias" for stack in layout.stacks}
    return all(name in known or tensor.dim() < 2 for name, tensor in module.named_parameters(recurse=False))
