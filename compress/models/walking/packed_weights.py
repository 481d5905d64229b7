"""Puts packed linears into a block in memory: the decoded weight, and the rounding of inputs that the scheme asks for.

A block in memory holds decoded weights in ordinary modules. Where a scheme rounds the inputs, the module computes with
`format.rounded_product` instead of its own forward until the rounding is removed. Torch looks up the forward of a
module before it calls hooks. So that a forward that waits in a hook meets the rounding too, `expect_rounding` puts a
forward there beforehand, which chooses when it runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.format import activations, layouts, rounded_product
from compress.models import linears

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.models.block import Block
    from compress.models.linears import LinearRef

_PRODUCT = "_compress_product"
"""Attribute of a module that chooses when it runs: the product that takes the place of its own, or None."""


def put(block: Block, ref: LinearRef, packed: PackedTensor, decoded_NK: torch.Tensor | None = None) -> None:
    """Has the linear compute what `packed` does; `decoded_NK` is its `layouts.unpack`, if there is one already."""
    linears.set_weight(block, ref, layouts.unpack(packed) if decoded_NK is None else decoded_NK)
    round_inputs(block, ref, packed)


def restore(block: Block, ref: LinearRef, dense_NK: torch.Tensor) -> None:
    """Has the linear compute with a dense weight again."""
    linears.set_weight(block, ref, dense_NK)
    if ref.kind != "expert" and _PRODUCT in (module := _module(block, ref)).__dict__:
        module.__dict__[_PRODUCT] = None


def expect_rounding(block: Block, refs: Iterable[LinearRef]) -> None:
    """Has forwards that are started now meet the rounding of linears that are packed while they wait."""
    for ref in refs:
        if ref.kind != "expert":
            _choose_late(_module(block, ref))


def round_inputs(block: Block, ref: LinearRef, packed: PackedTensor) -> None:
    """Has the linear, which holds the decoded weight of `packed`, round its inputs where the scheme says so."""
    if ref.kind == "expert":
        assert not activations.kind_of(packed.scheme), "plans refuse activations for experts"
        return
    module = _module(block, ref)
    if not activations.kind_of(packed.scheme):
        if _PRODUCT in module.__dict__:
            module.__dict__[_PRODUCT] = None
        return
    weight = module.get_parameter("weight").detach()
    held = weight.T if ref.transposed else weight
    _choose_late(module)
    module.__dict__[_PRODUCT] = rounded_product.prepare(packed.to(weight.device), weight.dtype, held)


def stop_rounding(block: Block) -> None:
    """Has all linears of the block compute with their inputs as they are again."""
    for module in block.module.modules():
        if _PRODUCT in module.__dict__:
            del module.__dict__[_PRODUCT], module.__dict__["forward"]


def _choose_late(module: nn.Module) -> None:
    if _PRODUCT in module.__dict__:
        return

    def forward(x: torch.Tensor) -> torch.Tensor:
        if (product := module.__dict__[_PRODUCT]) is None:
            own: torch.Tensor = type(module).forward(module, x)
            return own
        return product(x, module._parameters.get("bias"))  # type: ignore[no-any-return]

    module.__dict__ |= {"forward": forward, _PRODUCT: None}


def _module(block: Block, ref: LinearRef) -> nn.Module:
    return block.module.get_submodule(ref.name.removeprefix(f"{block.name}."))
