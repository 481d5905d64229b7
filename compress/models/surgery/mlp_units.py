"""Finds the channels of MLPs and of experts as units: rows of gate and up, columns of down.

Shape letters: U units.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import ModelError
from compress.models.linears import is_fused_experts
from compress.models.surgery.units import Coupled, Member, linear_members, size_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MLPS = (
    (("gate_proj", "up_proj"), "down_proj"), (("w1", "w3"), "w2"), (("gate_up_proj",), "down_proj"),
    (("c_fc",), "c_proj"), (("dense_h_to_4h",), "dense_4h_to_h"), (("fc1",), "fc2"), (("fc_in",), "fc_out"),
    (("up_proj",), "down_proj"),
)  # fmt: skip
_WIDTH_KEYS = ("n_inner", "ffn_dim", "ffn_hidden_size", "intermediate_size")


def mlp_units(model: PreTrainedModel, block_name: str, number: int) -> Iterator[Coupled]:
    """Yields the channels of every MLP of a block, each expert being an MLP.

    Raises:
        ModelError: the block has no MLP that is known; the block is named.
    """
    any_known = False
    for path, module in model.get_submodule(block_name).named_modules():
        name = f"{block_name}.{path}".rstrip(".")
        if is_fused_experts(module):
            any_known = True
            yield from _experts(model, module, name, number)
        elif (projections := _projections(module)) is not None:
            any_known = True
            yield _mlp(model, module, name, number, *projections)
    if not any_known:
        raise ModelError(
            "no MLP with known projections",
            allowed="gate_proj, up_proj, c_fc, fc1, experts …",
            do="Prune other units: mlp=false",
            layer=block_name,
        )


def _projections(module: nn.Module) -> tuple[tuple[str, ...], str] | None:
    """Returns the names of the linears into and out of the channels; None for a module that is no MLP."""
    children = dict(module.named_children())
    for inputs, output in _MLPS:
        if all(name in children for name in (*inputs, output)):
            # an MLP without a gate has no other linear, which could be a gate of another name
            linears = {name for name, child in children.items() if isinstance(child, nn.Linear)}
            return (inputs, output) if inputs != ("up_proj",) or linears <= {*inputs, output} else None
    return None


def _mlp(
    model: PreTrainedModel, module: nn.Module, name: str, number: int, inputs: tuple[str, ...], output: str
) -> Coupled:
    width = size_of(module.get_submodule(output))[1]
    index_U = torch.arange(width).view(width, 1, 1)
    parts = [(f"{name}.{projection}", index_U) for projection in inputs]
    if inputs == ("gate_up_proj",):  # the gate's rows lie above those of up
        parts = [(f"{name}.gate_up_proj", index_U), (f"{name}.gate_up_proj", index_U + width)]
    members = linear_members(model, parts, (f"{name}.{output}", index_U))
    key = _width_key(model.config, name, width)
    numbers = {"intermediate_size": 1} if getattr(module, "intermediate_size", None) == width else {}
    return Coupled(name, "mlp", number, f"{name}:{key}", members, {name: numbers} if numbers else {}, {key: 1})


def _experts(model: PreTrainedModel, module: nn.Module, name: str, number: int) -> Iterator[Coupled]:
    experts, _, width = module.get_parameter("down_proj").shape
    index_U = torch.arange(width).view(width, 1, 1)
    key = _width_key(model.config, name, width)
    has = [n for n in ("intermediate_dim", "intermediate_size") if getattr(module, n, None) == width]
    for expert in range(experts):
        members = (
            Member(f"{name}.gate_up_proj", 0, index_U, expert),
            Member(f"{name}.gate_up_proj", 0, index_U + width, expert),
            Member(f"{name}.down_proj", 1, index_U, expert, enters=True),
        )
        numbers = {name: dict.fromkeys(has, 1)} if has else {}
        yield Coupled(f"{name}.{expert}", "mlp", number, f"{name}:{key}", members, numbers, {key: 1})


def _width_key(config: Any, path: str, width: int) -> str:
    """Returns the key of the configuration that holds the width of this MLP."""
    if "shared_expert" in path:
        return "shared_expert_intermediate_size"
    if path.endswith("experts") and getattr(config, "moe_intermediate_size", None) is not None:
        return "moe_intermediate_size"
    return next((key for key in _WIDTH_KEYS if hasattr(config, key)), _WIDTH_KEYS[-1])
