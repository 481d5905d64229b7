"""The Triton kernels against `unpack` and float64, on a GPU or in the interpreter; run by test_triton.py."""

from __future__ import annotations

import pytest
import torch

from compress.errors import CompressError
from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.kernels import select, triton
from compress.kernels.select import Accepted
from compress.runtime.linear import PackedLinear
from tests.support import kernel_cases

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


MARGIN = 8192
"""Numbers around the inputs that nobody may read."""
MIXED = ("int5 g21", "int4 outliers", "spqr 3 g12", "aqlm 3x5 g6", "2:4 float32", "low rank bfloat16")
"""One case of each kind for the dtypes and counts that the others do not see."""


def to_device(packed: PackedTensor) -> PackedTensor:
    return PackedTensor(packed.shape, packed.scheme, {name: p.to(DEVICE) for name, p in packed.planes.items()})


def run(packed: PackedTensor, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The product by the kernels, from memory that was poisoned, on the CPU."""
    # NaN before and after the inputs shows who reads beside them
    around = torch.full((x.numel() + 2 * MARGIN,), float("nan"), dtype=x.dtype)
    inside = around[MARGIN : MARGIN + x.numel()].view(x.shape)
    inside.copy_(x)
    framed = around.to(DEVICE)[MARGIN : MARGIN + x.numel()].view(x.shape)
    with kernel_cases.poisoned():
        operands = triton.prepare(to_device(packed), x.dtype)
        result = triton.linear(
            framed if x.is_contiguous() else x.to(DEVICE), operands, None if bias is None else bias.to(DEVICE)
        )
    assert result.dtype == x.dtype
    return result.cpu()


REFUSED = {"3:5 int3": "3:5 with 3-bit values would take minutes to compile"}
SLOW = {
    *(f"int{bits} g64 {zeros}" for bits in (1, 3, 5, 6, 7) for zeros in ("symmetric", "zeros")),
    "int2 g64 symmetric", "int3 g1000", "spqr 2 g64 wide statistics", "aqlm 4x1 g1",
    "4:8 float16", "2:4 int4 row", "1:2 int8",
    # the widest ones, of which a narrower one of the same kind runs every time
    "int4 g128", "int4 row", "int8 g64 symmetric", "int3 g16", "aqlm 2x12 g16", "low rank float32",
}  # fmt: skip
"""Seconds each in the interpreter; others of their kind run every time."""
RUNNING = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name in kernel_cases.CASES
    if name not in REFUSED
]


@pytest.mark.parametrize("name", RUNNING)
def test_decoded_weights_are_those_of_unpack(name: str) -> None:
    packed = kernel_cases.CASES[name]()
    with kernel_cases.poisoned():
        operands = triton.prepare(to_device(packed), torch.float32)
        assert torch.equal(triton.dequantise(operands).cpu(), layouts.unpack(packed))
        if name in MIXED:
            assert torch.equal(triton.dequantise(operands, torch.bfloat16).cpu(), layouts.unpack(packed).bfloat16())


@pytest.mark.parametrize("name", RUNNING)
def test_products_are_within_their_bound(name: str) -> None:
    packed = kernel_cases.CASES[name]()
    one, three = (
        kernel_cases.inputs(m, packed.shape[1], dtype) for m, dtype in ((1, torch.float32), (3, torch.bfloat16))
    )
    bias = torch.randn(packed.shape[0], generator=torch.Generator().manual_seed(1)).bfloat16()
    assert kernel_cases.worst(run(packed, one, None), packed, one, None) <= 1
    assert kernel_cases.worst(run(packed, three, bias), packed, three, bias) <= 1


OTHERS = [(1, torch.bfloat16), (1, torch.float16), (3, torch.float32), (3, torch.float16)]
# each kind with two of them, one of which is float16, and each of them with three kinds; the others are slow
PAIRS = [
    pytest.param(name, *other, marks=() if (place in (0, 3)) == (number % 2 == 0) else pytest.mark.slow)
    for number, name in enumerate(MIXED)
    for place, other in enumerate(OTHERS)
]


@pytest.mark.parametrize("name,tokens,dtype", PAIRS)
def test_products_in_other_dtypes(name: str, tokens: int, dtype: torch.dtype) -> None:
    packed = kernel_cases.CASES[name]()
    x = kernel_cases.inputs(tokens, packed.shape[1], dtype)
    assert kernel_cases.fits(packed, x)
    bias = torch.randn(packed.shape[0], generator=torch.Generator().manual_seed(1)).to(dtype)
    assert kernel_cases.worst(run(packed, x, bias), packed, x, bias) <= 1


@pytest.mark.parametrize("tokens", kernel_cases.TOKENS)
@pytest.mark.parametrize("name", ["int4 bfloat16", "int3 g16 outliers"])
def test_any_number_of_tokens(name: str, tokens: int) -> None:
    packed = kernel_cases.CASES[name]()
    x = kernel_cases.inputs(tokens, packed.shape[1], torch.bfloat16)
    assert kernel_cases.worst(run(packed, x, None), packed, x, None) <= 1


@pytest.mark.parametrize("size", [2.0**-100, 2.0**40])
@pytest.mark.parametrize("tokens", [1, 3])
def test_tiny_and_huge_inputs(tokens: int, size: float) -> None:
    packed = kernel_cases.CASES["int4 g32"]()
    for dtype in (torch.float32, torch.bfloat16):
        x = kernel_cases.inputs(tokens, packed.shape[1], dtype, size)
        assert kernel_cases.worst(run(packed, x, None), packed, x, None) <= 1


def test_the_same_call_gives_the_same_bits() -> None:
    packed = kernel_cases.CASES["int4 g128"]()
    for tokens in (1, 5):
        x = kernel_cases.inputs(tokens, packed.shape[1], torch.float32)
        assert torch.equal(run(packed, x, None), run(packed, x, None))


def test_no_token_and_more_dimensions() -> None:
    packed = kernel_cases.CASES["int4 g32"]()
    rows, features = packed.shape
    assert run(packed, torch.empty(0, features), None).shape == (0, rows)
    x = kernel_cases.inputs(6, features, torch.float32)
    folded = run(packed, x.view(2, 3, features), None)
    assert torch.equal(folded.view(6, rows), run(packed, x, None))
    assert torch.equal(run(packed, x.T.contiguous().T, None), run(packed, x, None))


@pytest.mark.parametrize("name", ["int4 g32", "int4 outliers"])
def test_very_many_tokens_take_the_weight_decoded(name: str) -> None:
    packed = kernel_cases.CASES[name]()
    x = kernel_cases.inputs(1030, packed.shape[1], torch.float32)
    assert kernel_cases.worst(run(packed, x, None), packed, x, None) <= 1


def test_opcheck_and_gradients() -> None:
    packed = to_device(kernel_cases.ints((17, 64), 4, 32, outliers=0.1))
    spec, *planes = triton.prepare(packed, torch.float32)
    x = kernel_cases.inputs(3, packed.shape[1], torch.float32).to(DEVICE).requires_grad_()
    bias = torch.randn(packed.shape[0], device=DEVICE, requires_grad=True)
    torch.library.opcheck(torch.ops.compress.triton_linear.default, (x, planes, bias, spec))
    triton.linear(x, (spec, *planes), bias).square().sum().backward()
    other, other_bias = x.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()
    torch.nn.functional.linear(other, layouts.unpack(packed), other_bias).square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(bias.grad, other_bias.grad, rtol=1e-4, atol=1e-3)


def test_a_compiled_layer_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(select.FORCE, "triton")
    layer = PackedLinear.from_packed(to_device(kernel_cases.ints((20, 64), 4, 32)))
    x = kernel_cases.inputs(2, 64, torch.float32).to(DEVICE).requires_grad_()
    expected = layer(x)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)
    (gradient,) = torch.autograd.grad(compiled(x).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), x)[0])


@pytest.mark.parametrize("name", kernel_cases.CASES)
def test_what_is_refused_is_known(name: str) -> None:
    packed = kernel_cases.CASES[name]()
    assert triton.reject(packed.scheme, packed.shape, DEVICE) == REFUSED.get(name)


def test_selected_and_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = kernel_cases.CASES["int4 g32"]()
    monkeypatch.setenv(select.FORCE, "triton")
    assert select.select(packed.scheme, packed.shape, DEVICE) == Accepted("triton")
    with pytest.raises(CompressError, match=r"cannot take inputs of torch\.float64"):
        triton.prepare(packed, torch.float64)
    assert "2^31" in str(triton.reject(packed.scheme, (2**20, 2**12), DEVICE))
    if DEVICE.type == "cpu":
        monkeypatch.delenv("TRITON_INTERPRET")
        assert "not on cpu" in str(triton.reject(packed.scheme, packed.shape, DEVICE))
