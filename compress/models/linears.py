"""The linears of a block, each under one name and one shape: nn.Linear, GPT-2's Conv1D, experts of fused parameters.

Shape letters: N out features, K in features, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from compress.models.block import Block

EXPERT_PARAMETERS = {"q_gate_up_proj": "gate_up_proj", "q_down_proj": "down_proj"}
"""Part of an expert's linear name -> the fused parameter it is a slice of, in the order of use."""


@dataclass(frozen=True, slots=True)
class LinearRef:
    """A linear by its dotted path in the model; an expert's is `<experts path>.q_down_proj.<e>`."""

    name: str
    kind: Literal["linear", "conv1d", "expert"]
    shape: tuple[int, int]
    """(N, K), whatever way round the model stores it."""
    bias: bool

    @property
    def experts(self) -> tuple[str, str, int]:
        """For an expert: path of the experts module, `q_gate_up_proj` or `q_down_proj`, number of the expert."""
        path, projection, number = self.name.rsplit(".", 2)
        return path, projection, int(number)

    @property
    def parameter(self) -> str:
        """Dotted name of the parameter that holds the weight."""
        if self.kind == "expert":
            path, projection, _ = self.experts
            return f"{path}.{EXPERT_PARAMETERS[projection]}"
        return f"{self.name}.weight"


def find_linears(module: nn.Module, prefix: str) -> list[LinearRef]:
    """Returns the linears below `module`, whose own path is `prefix`; routers and gates of experts are none."""
    from transformers.pytorch_utils import Conv1D

    found = []
    gates = _gates(module)
    for path, child in module.named_modules():
        name = f"{prefix}.{path}".rstrip(".")
        if child in gates:
            continue
        if isinstance(child, nn.Linear):
            found.append(LinearRef(name, "linear", (child.out_features, child.in_features), child.bias is not None))
        elif isinstance(child, Conv1D):
            rows, columns = child.weight.shape
            found.append(LinearRef(name, "conv1d", (columns, rows), True))
        elif is_fused_experts(child):
            for projection, parameter in EXPERT_PARAMETERS.items():
                experts, rows, columns = child.get_parameter(parameter).shape
                found += [
                    LinearRef(f"{name}.{projection}.{number}", "expert", (rows, columns), False)
                    for number in range(experts)
                ]
    return found


def is_fused_experts(module: nn.Module) -> bool:
    """Returns whether the module holds all its experts' matrices as [E, N, K] parameters that we know how to split.

    Transformers marks the layout on the module; transposed, biased, ungated or interleaved experts are not taken.
    """
    parameters = [getattr(module, name, None) for name in EXPERT_PARAMETERS.values()]
    return (
        all(isinstance(parameter, nn.Parameter) and parameter.dim() == 3 for parameter in parameters)
        and getattr(module, "is_transposed", None) is False
        and getattr(module, "has_bias", None) is False
        and getattr(module, "has_gate", None) is True
        and getattr(module, "is_concatenated", None) is True
        and not getattr(module, "has_post_expert_norm", False)
    )


def _gates(module: nn.Module) -> set[nn.Module]:
    """Linears that choose among experts: they stand beside the experts and give one number per expert, or just one."""
    gates: set[nn.Module] = set()
    for parent in module.modules():
        beside = list(parent.children())
        counts = {len(child.get_parameter("gate_up_proj")) for child in beside if is_fused_experts(child)}
        if counts:
            gates |= {child for child in beside if isinstance(child, nn.Linear) and child.out_features in counts | {1}}
    return gates


def weight(root: Block | nn.Module, ref: LinearRef) -> torch.Tensor:
    """Returns a copy of the linear's weight, float32 [N, K], on the device it lies on.

    `root` is the block that holds it, or the whole model.
    """
    parameter = _parameter(root, ref)
    if ref.kind == "expert":
        parameter = parameter[ref.experts[2]]
    elif ref.kind == "conv1d":
        parameter = parameter.T
    return parameter.detach().to(torch.float32, copy=True).contiguous()


@torch.no_grad()
def set_weight(root: Block | nn.Module, ref: LinearRef, w_NK: torch.Tensor) -> None:
    """Puts `w_NK` [N, K] in place of the linear's weight: the next forward uses it."""
    assert w_NK.shape == ref.shape, f"{ref.name}: {tuple(w_NK.shape)} is not {ref.shape}"
    parameter = _parameter(root, ref)
    if ref.kind == "expert":
        parameter[ref.experts[2]].copy_(w_NK)
    elif ref.kind == "conv1d":
        parameter.copy_(w_NK.T)
    else:
        parameter.copy_(w_NK)


def parameters(refs: Iterable[LinearRef], weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the parameters that hold the given weights [N, K], by their dotted names, as the model stores them.

    The differentiable counterpart of `set_weight`, for `torch.func.functional_call`. `refs` must name all experts of a
    projection or none of them.
    """
    found: dict[str, torch.Tensor] = {}
    experts: dict[str, dict[int, torch.Tensor]] = {}
    for ref in refs:
        if ref.kind == "expert":
            experts.setdefault(ref.parameter, {})[ref.experts[2]] = weights[ref.name]
        else:
            found[ref.parameter] = weights[ref.name].T if ref.kind == "conv1d" else weights[ref.name]
    return found | {name: torch.stack([one[number] for number in range(len(one))]) for name, one in experts.items()}


def _parameter(root: Block | nn.Module, ref: LinearRef) -> torch.Tensor:
    from compress.models.block import Block

    if isinstance(root, Block):
        return root.module.get_parameter(ref.parameter.removeprefix(f"{root.name}."))
    return root.get_parameter(ref.parameter)
