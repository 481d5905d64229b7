"""The linears of a block, each under one name and one shape: nn.Linear, GPT-2's Conv1D, and the matrices of experts.

Shape letters: N out features, K in features, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from compress.format import naming
from compress.models.moe.layouts import expert_layout
from compress.models.moe.routers import find_routers

if TYPE_CHECKING:
    from compress.models.block import Block


@dataclass(frozen=True, slots=True)
class LinearRef:
    """A linear by its dotted path in the model; an expert's is `<experts path>.q_<parameter>.<e>`."""

    name: str
    kind: Literal["linear", "conv1d", "expert"]
    shape: tuple[int, int]
    """(N, K), also where the model stores it transposed."""
    bias: bool
    """Whether `<name>.bias` is a parameter of the model. Biases of fused experts are parameters of the experts' module
    and stay there."""
    transposed: bool = False
    """The model holds the weight as [K, N]."""
    flat: bool = False
    """The experts' matrices lie one below the other in a 2-D parameter."""

    @property
    def experts(self) -> tuple[str, str, int]:
        """For an expert: path of the module, name of the parameter in it, number of the expert."""
        parsed = naming.parse_expert(self.name)
        assert parsed is not None, f"{self.name} is no expert's"
        return parsed

    @property
    def parameter(self) -> str:
        """Dotted name of the parameter that holds the weight."""
        return naming.guard(*self.experts[:2]) if self.kind == "expert" else f"{self.name}.weight"

    @property
    def held(self) -> tuple[int, int]:
        """Shape of the matrix as the model holds it: (K, N) where it is transposed."""
        return (self.shape[1], self.shape[0]) if self.transposed else self.shape


def is_conv1d(module: nn.Module) -> bool:
    """Returns whether the module is GPT-2's Conv1D, a linear that holds its weight as [K, N]."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def is_linear(module: nn.Module) -> bool:
    """Returns whether the module is a linear with a weight of its own: nn.Linear or Conv1D.

    A class derived from nn.Linear may compute something else in a forward of its own (DeepSeek V4 multiplies each group
    of features by a part of the weight); it counts only if it gives what nn.Linear gives (Falcon's does).
    """
    return (isinstance(module, nn.Linear) and _multiplies(type(module))) or is_conv1d(module)  # type: ignore[arg-type]


@cache
def _multiplies(kind: Any) -> bool:
    """Returns whether the forward of a class derived from nn.Linear is that of nn.Linear, tried on a small weight."""
    if kind.forward is nn.Linear.forward:
        return True
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.no_grad():
        torch.manual_seed(0)
        plain, x_BTK = nn.Linear(6, 4), torch.randn(2, 3, 6)
        small = kind.__new__(kind)
        small.__dict__.update(plain.__dict__)
        try:
            return torch.allclose(small(x_BTK), plain(x_BTK))
        except (
            AttributeError,
            IndexError,
            RuntimeError,
            TypeError,
            ValueError,
        ):  # it wants more than a weight and bias
            return False


def find_linears(module: nn.Module, prefix: str) -> list[LinearRef]:
    """Returns the linears below `module`, whose own path is `prefix`; routers of experts are none."""
    refs: list[LinearRef] = []
    routers = find_routers(module)
    for path, child in module.named_modules():
        name = f"{prefix}.{path}".strip(".")
        if child in routers:
            continue
        if is_linear(child):
            refs.append(_of_module(name, child))
        elif (layout := expert_layout(child)) is not None:
            refs += [
                LinearRef(
                    naming.expert(name, stack.parameter, number),
                    "expert",
                    stack.shape,
                    bias=False,
                    transposed=stack.transposed,
                    flat=stack.flat,
                )
                for stack in layout.stacks
                for number in range(stack.experts)
            ]
    return refs


def _of_module(name: str, module: nn.Module) -> LinearRef:
    rows, columns = module.get_parameter("weight").shape
    bias = module._parameters.get("bias") is not None
    if is_conv1d(module):
        return LinearRef(name, "conv1d", (columns, rows), bias, transposed=True)
    return LinearRef(name, "linear", (rows, columns), bias)


def is_fused_experts(module: nn.Module) -> bool:
    """Returns whether the module holds gated experts as `gate_up_proj` [E, 2I, H] and `down_proj` [E, H, I] alone."""
    layout = expert_layout(module)
    if layout is None or not layout.interface or getattr(module, "has_post_expert_norm", False):
        return False
    names = tuple(stack.parameter for stack in layout.stacks)
    plain = not any(stack.transposed for stack in layout.stacks) and getattr(module, "has_bias", None) is False
    return plain and names == ("gate_up_proj", "down_proj") and getattr(module, "is_concatenated", None) is True


def weight(root: Block | nn.Module, ref: LinearRef) -> torch.Tensor:
    """Returns a copy of the linear's weight, float32 [N, K], on the device it lies on.

    `root` is the block that holds it, or the whole model.
    """
    return from_parameter(ref, _parameter(root, ref).detach()).to(torch.float32, copy=True).contiguous()


@torch.no_grad()
def set_weight(root: Block | nn.Module, ref: LinearRef, w_NK: torch.Tensor) -> None:
    """Puts `w_NK` [N, K] in place of the linear's weight: the next forward uses it."""
    assert w_NK.shape == ref.shape, f"{ref.name}: {tuple(w_NK.shape)} is not {ref.shape}"
    from_parameter(ref, _parameter(root, ref)).copy_(w_NK)


def from_parameter(ref: LinearRef, parameter: torch.Tensor) -> torch.Tensor:
    """Returns the linear's weight [N, K] as a view of the parameter that holds it."""
    if ref.kind == "expert":
        parameter = parameter.view(-1, *ref.held)[ref.experts[2]]
    return parameter.mT if ref.transposed else parameter


def to_parameter(ref: LinearRef, weights: torch.Tensor) -> torch.Tensor:
    """Returns the parameter as the model holds it: of a weight [N, K], or of the weights [E, N, K] of all experts.

    `ref` is any of the linears that the parameter holds.
    """
    held = weights.mT if ref.transposed else weights
    return held.reshape(-1, held.shape[-1]) if ref.flat else held


def parameters(refs: Iterable[LinearRef], weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the parameters that hold the given weights [N, K], by their dotted names, as the model stores them.

    The differentiable counterpart of `set_weight`, for `torch.func.functional_call`. `refs` must name all experts of a
    projection or none of them.
    """
    values: dict[str, torch.Tensor] = {}
    experts: dict[str, list[LinearRef]] = {}
    for ref in refs:
        if ref.kind == "expert":
            experts.setdefault(ref.parameter, []).append(ref)
        else:
            values[ref.parameter] = to_parameter(ref, weights[ref.name])
    for name, members in experts.items():
        ordered = sorted(members, key=lambda ref: ref.experts[2])
        values[name] = to_parameter(ordered[0], torch.stack([weights[ref.name] for ref in ordered]))
    return values


def in_batches(refs: list[LinearRef], experts_at_once: int) -> Iterator[list[LinearRef]]:
    """Yields linears of one input group, as many at a time as may hold their Gram matrices together.

    Linears that share an input share one Gram matrix; experts have inputs of their own, so a few at a time bound the
    memory.
    """
    size = experts_at_once if refs and refs[0].kind == "expert" else len(refs)
    for start in range(0, len(refs), size or 1):
        yield refs[start : start + size]


def _parameter(root: Block | nn.Module, ref: LinearRef) -> torch.Tensor:
    from compress.models.block import Block

    module = root.module if isinstance(root, Block) else root
    path = ref.parameter.removeprefix(f"{root.name}." if isinstance(root, Block) else "")
    owner, _, key = path.rpartition(".")
    # not by attribute: experts that are listened to hand out stand-ins for their parameters
    parameter = module.get_submodule(owner)._parameters[key]
    assert parameter is not None, f"{ref.parameter} is no parameter"
    return parameter
