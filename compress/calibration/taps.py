"""The only hooks of the package: hear what a linear receives, right before it is applied.

Fused experts have no modules to hook; transformers lets their forward be exchanged by name: ours goes one by one.
Shape letters: T tokens, k experts chosen per token, H hidden, I width inside an expert, R tokens routed to one expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from compress.models.blocks import Block
from compress.models.linears import LinearRef

Heard = Callable[[LinearRef, torch.Tensor], None]
Given = Callable[[str, int, torch.Tensor], None]
"""Path of the experts, number of the expert, and what it adds to their sum [R, H], times its routing weight."""
_NAME = "compress_capture"


class Enough(BaseException):
    """Leaves a forward early; no `except Exception` on the way may catch it."""


@contextmanager
def tapped(block: Block, refs: Iterable[LinearRef], heard: Heard, given: Given | None = None) -> Iterator[None]:
    """While open, `heard(ref, x)` is called with every input x [..., K] of the linears `refs` of the block.

    For fused experts it is called once per expert and matrix with the rows routed to that expert (maybe none), first
    for all gate_up matrices, then for all down matrices; `given` is called with what each expert gives. What they
    raise leaves the forward.
    """
    experts: dict[nn.Module, dict[tuple[str, int], LinearRef]] = {}
    with ExitStack() as stack:
        for ref in refs:
            path = ref.experts[0] if ref.kind == "expert" else ref.name
            module = block.module.get_submodule(path.removeprefix(f"{block.name}."))
            if ref.kind == "expert":
                experts.setdefault(module, {})[ref.experts[1:]] = ref
            else:
                stack.callback(module.register_forward_pre_hook(_hook(ref, heard), with_kwargs=True).remove)
        if experts:
            stack.enter_context(_tapped_experts(experts, heard, given))
        yield


def _hook(ref: LinearRef, heard: Heard) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        heard(ref, args[0] if args else next(iter(kwargs.values())))

    return hook


@contextmanager
def _tapped_experts(
    experts: dict[nn.Module, dict[tuple[str, int], LinearRef]], heard: Heard, given: Given | None
) -> Iterator[None]:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    paths = {module: next(iter(refs.values())).experts[0] for module, refs in experts.items()}

    def forward(module: Any, x_TH: torch.Tensor, chosen_Tk: torch.Tensor, weights_Tk: torch.Tensor) -> torch.Tensor:
        def tap(projection: str, number: int, x_RK: torch.Tensor) -> None:
            if (ref := experts.get(module, {}).get((projection, number))) is not None:
                heard(ref, x_RK)

        def gives(number: int, y_RH: torch.Tensor) -> None:
            if given is not None and module in paths:
                given(paths[module], number, y_RH)

        return _by_expert(module, x_TH, chosen_Tk, weights_Tk, tap, gives)

    configs: list[Any] = [module.config for module in experts]
    usual = [config._experts_implementation for config in configs]
    ALL_EXPERTS_FUNCTIONS[_NAME] = forward
    for config in configs:
        config._experts_implementation = _NAME
    try:
        yield
    finally:
        for config, name in zip(configs, usual, strict=True):
            config._experts_implementation = name
        del ALL_EXPERTS_FUNCTIONS[_NAME]


def _by_expert(
    module: Any,
    x_TH: torch.Tensor,
    chosen_Tk: torch.Tensor,
    weights_Tk: torch.Tensor,
    tap: Callable[[str, int, torch.Tensor], None],
    gives: Callable[[int, torch.Tensor], None],
) -> torch.Tensor:
    """The experts' forward, one expert after the other. Slots with a number past the last expert are empty."""
    routed = [torch.where(chosen_Tk == number) for number in range(module.gate_up_proj.shape[0])]
    for number, (tokens_R, _) in enumerate(routed):
        tap("q_gate_up_proj", number, x_TH[tokens_R])
    out_TH = torch.zeros_like(x_TH)
    for number, (tokens_R, slots_R) in enumerate(routed):
        inner_RI = module._apply_gate(nn.functional.linear(x_TH[tokens_R], module.gate_up_proj[number]))
        tap("q_down_proj", number, inner_RI)
        y_RH = nn.functional.linear(inner_RI, module.down_proj[number]) * weights_Tk[tokens_R, slots_R, None]
        gives(number, y_RH)
        out_TH.index_add_(0, tokens_R, y_RH)
    return out_TH
