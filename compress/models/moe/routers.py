"""Finds the routers of a block (they choose the experts). They stay dense: small, and errors change the choice."""

from __future__ import annotations

from torch import nn

from compress.models.moe.layouts import expert_layout


def find_routers(module: nn.Module) -> set[nn.Module]:
    """Returns the modules below `module` that hold a router's matrix.

    A router stands beside the experts, alone or in a module of its own, and gives one number per expert; a linear that
    gives a single number there weighs a shared expert and counts as one too.
    """
    counts = {child: layout.experts for child in module.modules() if (layout := expert_layout(child)) is not None}
    routers: set[nn.Module] = set()
    for parent in module.modules():
        children = list(parent.children())
        beside = [child for child in children if not _holds_experts(child, counts)]
        rows = {counts[part] for child in children for part in (child, *child.children()) if part in counts}
        if rows:
            routers |= {holder for child in beside if (holder := _only_matrix(child, rows | {1})) is not None}
    return routers


def _holds_experts(module: nn.Module, counts: dict[nn.Module, int]) -> bool:
    return any(part in counts for part in module.modules())


def _only_matrix(module: nn.Module, rows: set[int]) -> nn.Module | None:
    """The module that holds the only matrix of `module`, if that has one of these numbers of rows."""
    holders = [(part, p) for part in module.modules() for p in part.parameters(recurse=False) if p.dim() >= 2]
    return holders[0][0] if len(holders) == 1 and holders[0][1].shape[0] in rows else None
