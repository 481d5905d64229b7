"""Computes the forward of a module with transformers' experts interface, one expert after the other.

Shape letters: T tokens, C experts chosen per token, H hidden, R rows of one expert, I width inside an expert.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from compress.models.moe.layouts import ExpertLayout

Project = Callable[[str, int, torch.Tensor], torch.Tensor]
"""(parameter, expert, x [R, K]) -> x · Wᵀ [R, N] with that expert's matrix, without bias."""


def interface_forward(
    module: Any,
    layout: ExpertLayout,
    project: Project,
    hidden_TH: torch.Tensor,
    chosen_TC: torch.Tensor,
    share_TC: torch.Tensor,
    gives: Callable[[int, torch.Tensor], None] | None = None,
    before_down: Callable[[Mapping[int, torch.Tensor]], None] | None = None,
) -> torch.Tensor:
    """Returns [T, H]: for each token the weighted sum of its experts, in the dtype of the hidden states.

    The same steps as transformers' `batched_mm_experts_forward` (integrations/moe.py): projection, bias, the module's
    own gate or activation, projection, bias, norm after the expert where there is one, routing weight, sum. `module`
    gives everything but the matrices. A slot whose number is past the last expert is empty.

    Args:
        module: the experts module.
        layout: its layout; `layout.interface` holds.
        project: multiplies by one expert's matrix.
        hidden_TH: hidden states.
        chosen_TC: numbers of the experts that each token is routed to.
        share_TC: routing weights.
        gives: called with each expert's number and what it adds to the sum, [R, H].
        before_down: called once with the inputs [R, I] of the second projection by expert, before the first of these
            products. The inputs of all experts are then in memory together; without it, those of one at a time.
    """
    up, down = (stack.parameter for stack in layout.stacks)
    act: Callable[[torch.Tensor], torch.Tensor] = module._apply_gate if module.has_gate else module.act_fn
    tokens, choices = chosen_TC.shape
    chosen, share = chosen_TC.reshape(-1), share_TC.reshape(-1, 1)
    rows_of = {expert: (chosen == expert).nonzero()[:, 0] for expert in range(layout.experts)}
    rows_of = {expert: rows for expert, rows in rows_of.items() if len(rows)}

    def inner(expert: int) -> torch.Tensor:
        x_RH = hidden_TH[rows_of[expert] // choices]
        return act(_with_bias(module, up, expert, project(up, expert, x_RH)))

    inner_of: dict[int, torch.Tensor] = {}
    if before_down is not None:
        inner_of = {expert: inner(expert) for expert in rows_of}
        before_down(inner_of)
    dtype = torch.promote_types(hidden_TH.dtype, share_TC.dtype)
    # one row per choice, summed at the end in a fixed order: the result does not depend on the order of the experts
    weighted = torch.zeros(tokens * choices, hidden_TH.shape[-1], dtype=dtype, device=hidden_TH.device)
    for expert, rows in rows_of.items():
        inner_RI = inner_of.pop(expert) if inner_of else inner(expert)
        out_RH = _with_bias(module, down, expert, project(down, expert, inner_RI))
        if getattr(module, "has_post_expert_norm", False):
            out_RH = module.post_expert_norm(out_RH)
        added_RH = out_RH * share[rows]
        if gives is not None:
            gives(expert, added_RH)
        weighted[rows] = added_RH.to(dtype)
    return weighted.view(tokens, choices, -1).sum(1).to(hidden_TH.dtype)


def _with_bias(module: nn.Module, parameter: str, expert: int, y_RN: torch.Tensor) -> torch.Tensor:
    if not module.has_bias:
        return y_RN
    return y_RN + module.get_parameter(f"{parameter}_bias")[expert]
