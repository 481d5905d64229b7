"""PackedLinear: what moves, what stays, and what it costs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from compress.errors import CompressError
from compress.format import layouts
from compress.methods import rtn
from compress.runtime.linear import PackedLinear

# a kernel sums in float32 where the dense layer of a low precision rounds on the way
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float16: {"rtol": 2e-3, "atol": 1e-2},
    torch.bfloat16: {"rtol": 2e-2, "atol": 1e-1},
}


def layer(n: int = 24, k: int = 32, bits: int = 4, bias: bool = True) -> PackedLinear:
    generator = torch.Generator().manual_seed(0)
    packed = rtn.solve(
        torch.randn(n, k, generator=generator), None, rtn.Config(bits=bits, group_size=8, symmetric=False)
    )
    return PackedLinear.from_packed(packed, torch.randn(n, generator=generator) if bias else None)


def expected(linear: PackedLinear, x: torch.Tensor) -> torch.Tensor:
    bias = None if linear.bias is None else linear.bias.to(x.dtype)
    return nn.functional.linear(x, layouts.unpack(linear.packed).to(x.dtype), bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("keep_prepared", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_linear_of_the_unpacked_weight(dtype: torch.dtype, keep_prepared: bool, bias: bool) -> None:
    linear = layer(bias=bias).to(dtype)
    linear.keep_prepared = keep_prepared
    for shape in [(32,), (5, 32), (2, 3, 32), (0, 32)]:
        x = torch.randn(shape).to(dtype)
        found = linear(x)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected(linear, x), **TOLERANCE[dtype])


@pytest.mark.parametrize("move", [nn.Module.half, nn.Module.double, nn.Module.bfloat16, lambda m: m.to(torch.bfloat16)])
def test_casts_leave_the_planes_and_take_the_bias(move) -> None:  # type: ignore[no-untyped-def]
    linear = layer()
    before = {name: plane.clone() for name, plane in linear.packed.planes.items()}
    moved = move(linear)
    assert moved.bias.dtype != torch.float32
    for name, plane in moved.packed.planes.items():
        assert plane.dtype == before[name].dtype and torch.equal(plane, before[name])


def test_planes_move_between_devices_with_their_dtypes() -> None:
    linear = layer().to("meta")
    for name, plane in layer().packed.planes.items():
        assert linear.packed.planes[name].is_meta and linear.packed.planes[name].dtype == plane.dtype


def test_a_move_to_where_it_is_keeps_the_marks_of_a_loader() -> None:
    linear = layer()
    linear.scale._is_hf_initialized = True  # type: ignore[union-attr]
    assert linear.to("cpu").scale._is_hf_initialized  # type: ignore[union-attr]


def test_the_prepared_form_is_not_saved_and_follows_the_planes() -> None:
    linear, x = layer(), torch.randn(3, 32)
    linear(x)
    assert linear._operands and sorted(linear.state_dict()) == ["bias", "scale", "weight", "zero_point"]
    for other in (copy.deepcopy(linear), pickle.loads(pickle.dumps(linear))):
        assert torch.equal(other(x), linear(x))
    changed = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    changed["scale"] *= 2
    linear.load_state_dict(changed)
    torch.testing.assert_close(linear(x), expected(linear, x))
    found = linear.to(torch.bfloat16)(x.bfloat16())
    torch.testing.assert_close(found, expected(linear, x.bfloat16()), **TOLERANCE[torch.bfloat16])


def test_nothing_is_kept_when_told_so() -> None:
    linear = layer()
    linear.keep_prepared = False
    linear(torch.randn(2, 32))
    assert linear._operands == ()


def test_first_use_in_inference_mode_does_not_spoil_training_later() -> None:
    linear = layer()
    with torch.inference_mode():
        linear(torch.randn(2, 32))
    x = torch.randn(2, 32, requires_grad=True)
    linear(x).sum().backward()
    torch.testing.assert_close(x.grad, layouts.unpack(linear.packed).sum(0).expand(2, 32))


@pytest.mark.parametrize("prepared", [True, False])
def test_it_compiles_into_one_graph(prepared: bool) -> None:
    linear, x = layer(), torch.randn(4, 32)
    if prepared:
        linear(x)
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected(linear, x))
    torch.testing.assert_close(compiled(x[:3]), expected(linear, x[:3]))


def test_a_forced_kernel_that_is_not_there_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_KERNEL", "cuneiform")
    for keep_prepared in (True, False):
        linear = layer()
        linear.keep_prepared = keep_prepared
        with pytest.raises(CompressError, match=r"COMPRESS_KERNEL=cuneiform.*unknown kernel"):
            linear(torch.randn(1, 32))


def test_it_says_what_it_is() -> None:
    assert "in_features=32, out_features=24, bias=True, int_group.v1, 4 bits" in repr(layer())
