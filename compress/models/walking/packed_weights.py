"""Puts packed linears into a block in memory: the decoded weight, and the rounding of inputs that the scheme asks for.

A block in memory holds decoded weights in ordinary modules. Where a scheme rounds the inputs, the module computes with
`format.rounded_product` instead of its own forward until the rounding is removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from compress.format import activations, layouts, rounded_product
from compress.models import linears

if TYPE_CHECKING:
    from compress.format.packed import PackedTensor
    from compress.models.block import Block
    from compress.models.linears import LinearRef

_MARK = "_compress_rounds_inputs"


def put(block: Block, ref: LinearRef, packed: PackedTensor, decoded_NK: torch.Tensor | None = None) -> None:
    """Has the linear compute what `packed` does; `decoded_NK` is its `layouts.unpack`, if there is one already."""
    linears.set_weight(block, ref, layouts.unpack(packed) if decoded_NK is None else decoded_NK)
    round_inputs(block, ref, packed)


def restore(block: Block, ref: LinearRef, dense_NK: torch.Tensor) -> None:
    """Has the linear compute with a dense weight again."""
    linears.set_weight(block, ref, dense_NK)
    if ref.kind != "expert":
        _remove(_module(block, ref))


def round_inputs(block: Block, ref: LinearRef, packed: PackedTensor) -> None:
    """Has the linear, which holds the decoded weight of `packed`, round its inputs where the scheme says so."""
    if ref.kind == "expert":
        assert not activations.kind_of(packed.scheme), "plans refuse activations for experts"
        return
    module = _module(block, ref)
    _remove(module)
    if not activations.kind_of(packed.scheme):
        return
    weight = module.get_parameter("weight").detach()
    product = rounded_product.prepare(packed.to(weight.device), weight.dtype, weight.T if ref.transposed else weight)

    def forward(x: torch.Tensor) -> torch.Tensor:
        return product(x, module._parameters.get("bias"))

    module.__dict__ |= {"forward": forward, _MARK: True}


def stop_rounding(block: Block) -> None:
    """Has all linears of the block compute with their inputs as they are again."""
    for module in block.module.modules():
        _remove(module)


def _remove(module: nn.Module) -> None:
    if module.__dict__.pop(_MARK, False):
        del module.__dict__["forward"]


def _module(block: Block, ref: LinearRef) -> nn.Module:
    return block.module.get_submodule(ref.name.removeprefix(f"{block.name}."))
