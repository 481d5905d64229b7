"""The ops: registered as torch wants them, equal to `unpack`, and differentiable in what is not packed."""

from __future__ import annotations

import pytest
import torch

from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.kernels import ops
from compress.methods import rtn


def packed(symmetric: bool = False) -> PackedTensor:
    w_NK = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    return rtn.solve(w_NK, None, rtn.Config(bits=3, group_size=8, symmetric=symmetric))


def arguments(tensor: PackedTensor) -> tuple[list[torch.Tensor], str]:
    return list(tensor.planes.values()), ops.spec_of(tensor.scheme, tensor.shape)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(bias: bool, symmetric: bool, dtype: torch.dtype) -> None:
    planes, spec = arguments(packed(symmetric))
    x = torch.randn(2, 3, 40, dtype=dtype, requires_grad=True)
    bias_N = torch.randn(12, dtype=dtype, requires_grad=True) if bias else None
    torch.library.opcheck(torch.ops.compress.packed_linear.default, (x, planes, bias_N, spec))
    torch.library.opcheck(torch.ops.compress.unpack.default, (planes, spec))


def test_unpack_op_is_unpack() -> None:
    tensor = packed()
    assert torch.equal(torch.ops.compress.unpack(*arguments(tensor)), layouts.unpack(tensor))


def test_gradients_are_those_of_the_dense_layer() -> None:
    tensor = packed()
    planes, spec = arguments(tensor)
    leaves = [torch.randn(5, 40, dtype=torch.float64), torch.randn(12, dtype=torch.float64)]
    found, expected = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    torch.ops.compress.packed_linear(found[0], planes, found[1], spec).square().sum().backward()
    torch.nn.functional.linear(expected[0], layouts.unpack(tensor).double(), expected[1]).square().sum().backward()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
