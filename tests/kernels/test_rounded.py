"""The native kernel for inputs rounded to 8 bits gives the numbers of the reference with every instruction set."""

from __future__ import annotations

import pytest
import torch

from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.kernels import native, reference, select
from compress.kernels.native import loader
from compress.methods import rtn

pytestmark = pytest.mark.skipif(loader.unavailable() is not None, reason="the native kernels are not built")
ISAS = list(loader.units()) if loader.unavailable() is None else []
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def weight(rows: int, columns: int, **options: str) -> PackedTensor:
    generator = torch.Generator().manual_seed(rows)
    config = rtn.Config(bits=8, activations="int8", **options)  # type: ignore[arg-type]
    packed = rtn.solve(torch.randn(rows, columns, generator=generator), None, config)
    packed.planes["weight"][0] = -1  # code 255, the greatest
    packed.planes["weight"][-1] = 0  # code 0, which stands for −128
    return packed


def inputs(tokens: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    x_TK = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(tokens))
    x_TK[0] = 0
    x_TK[-1] = -x_TK[-1].abs().amax()  # every code is −128
    return x_TK.to(dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (7, 5), (130, 100), (65, 1500)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_gives_the_numbers_of_the_reference(isa: str, rows: int, columns: int, dtype: torch.dtype) -> None:
    packed = weight(rows, columns)
    with loader.forced(isa):
        for tokens in (1, 2, 7, 40):
            x_TK, bias_N = inputs(tokens, columns, dtype), torch.randn(rows).to(dtype)
            for bias in (None, bias_N):
                expected = reference.linear(x_TK, reference.prepare(packed, dtype), bias)
                found = native.linear(x_TK, native.prepare(packed, dtype), bias)
                assert found.dtype == dtype and torch.equal(found, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_scales_in_other_dtypes_and_many_tokens(isa: str) -> None:
    """More tokens than are rounded at once, and threads that share them."""
    with loader.forced(isa):
        for scale_dtype in ("bfloat16", "float32"):
            packed, x_TK = weight(20, 64, scale_dtype=scale_dtype), inputs(1030, 64, torch.float32)
            expected = reference.linear(x_TK, reference.prepare(packed, torch.float32), None)
            assert torch.equal(native.linear(x_TK, native.prepare(packed, torch.float32), None), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_token_that_is_not_finite_gives_no_number(isa: str, bad: float) -> None:
    packed, x_TK = weight(20, 64), inputs(3, 64, torch.float32)
    x_TK[1, 50] = bad
    with loader.forced(isa):
        found = native.linear(x_TK, native.prepare(packed, torch.float32), None)
    expected = reference.linear(x_TK, reference.prepare(packed, torch.float32), None)
    assert found[1].isnan().all() and expected[1].isnan().all() and torch.equal(found[[0, 2]], expected[[0, 2]])


def test_tiny_inputs_are_rounded_too() -> None:
    """Down to numbers below the normal ones."""
    packed = weight(20, 64)
    for size in (1e-30, 1e-38, 1e-43):
        x_TK = inputs(3, 64, torch.float32) * size
        expected = reference.linear(x_TK, reference.prepare(packed, torch.float32), None)
        assert torch.equal(native.linear(x_TK, native.prepare(packed, torch.float32), None), expected)


def test_it_is_chosen_and_refuses_other_rounding() -> None:
    cpu, packed = torch.device("cpu"), weight(16, 32)
    assert select.select(packed.scheme, packed.shape, cpu) == select.Accepted("native")
    other = rtn.solve(torch.randn(16, 32), None, rtn.Config(grid="fp8", activations="fp8"))
    assert select.select(other.scheme, other.shape, cpu) == select.Accepted("reference")
    answer = select.ask("triton", packed.scheme, packed.shape, torch.device("cuda"))
    assert answer == select.Rejected("no Triton kernel rounds its inputs")


def test_gradients_pass_the_rounding() -> None:
    packed, x_TK = weight(20, 64), inputs(3, 64, torch.float32).requires_grad_()
    y_TN = native.linear(x_TK, native.prepare(packed, torch.float32), None)
    (grad_TK,) = torch.autograd.grad(y_TN.sum(), x_TK)
    torch.testing.assert_close(grad_TK, layouts.unpack(packed).sum(0).expand(3, -1), rtol=1e-5, atol=1e-4)
