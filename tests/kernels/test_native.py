"""The native kernels against `unpack` and against float64: every instruction set this processor has, every form."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import pytest
import torch

from compress.errors import FormatError
from compress.format import layouts
from compress.kernels import native
from compress.kernels.native import loader
from tests.support.kernel_weights import Weight, bilevel, excess, factors, integers, kept, vectors

pytestmark = pytest.mark.skipif(loader.unavailable() is not None, reason=str(loader.unavailable()))
CPU = torch.device("cpu")
SETS = list(loader.units()) if loader.unavailable() is None else ["scalar"]
SHAPES = [(64, 256), (63, 96), (33, 1000), (5, 7), (1, 32), (16, 48), (17, 160)]
FORMS = {
    **{f"int{bits}": partial(integers, bits=bits) for bits in range(1, 9)},
    "int4 zero": partial(integers, bits=4, symmetric=False),
    "int3 zero delta": partial(integers, bits=3, symmetric=False, share=0.02),
    "int2 bfloat16": partial(integers, bits=2, dtype=torch.bfloat16),
    "int5 float32 delta": partial(integers, bits=5, dtype=torch.float32, share=0.02),
    "int8 zero": partial(integers, bits=8, symmetric=False, dtype=torch.float32),
    "int4 tiny": partial(integers, bits=4, dtype=torch.float32, size=1e-30),
    "int4 huge": partial(integers, bits=4, dtype=torch.float32, size=1e25),
}
SPQR = {
    "3 bits": partial(bilevel),
    "2 bits, natural order": partial(bilevel, bits=2, permuted=False, share=0.0),
    "4 bits, runs of 32": partial(bilevel, bits=4, stats_group=32),
    "exponent": partial(bilevel, exponent=-9),
    "runs of 5": partial(bilevel, stats_group=5),
    "wide statistics": partial(bilevel, stats_bits=6, share=0.05),
}

OTHERS = {
    "additive 2x8 g8": partial(vectors),
    "additive 1x16 g8": partial(vectors, books=1, bits=16),
    "additive 1x12 g8": partial(vectors, books=1, bits=12),
    "additive 2x11 g12": partial(vectors, bits=11, group=12),
    "additive 3x5 g4": partial(vectors, books=3, bits=5, group=4),
    "additive 2x2 g24": partial(vectors, bits=2, group=24, dtype=torch.float32),
    "2:4 bfloat16": partial(kept),
    "2:4 float16": partial(kept, values=torch.float16),
    "1:4 float32": partial(kept, n=1, values=torch.float32),
    "3:4 bfloat16": partial(kept, n=3),
    **{f"2:4 int{bits}": partial(kept, values=partial(integers, bits=bits, group=48)) for bits in (2, 3, 4, 5, 8)},
    "2:4 int4 group 32": partial(kept, values=partial(integers, bits=4)),
    "2:4 int4 zero": partial(kept, values=partial(integers, bits=4, group=16, symmetric=False)),
    "2:4 int4 zero group 32": partial(kept, values=partial(integers, bits=4, symmetric=False)),
    "2:4 int4 delta": partial(kept, values=partial(integers, bits=4, group=16, share=0.05)),
    "3:4 int4": partial(kept, n=3, values=partial(integers, bits=4, group=8)),
    "2:4 + product": partial(kept, slorb=5),
    "low rank": partial(factors, rank=16),
    "low rank float16": partial(factors, rank=16, part=torch.float16),
    "low rank int4": partial(factors, rank=16, part=partial(integers, bits=4, group=16)),
    "low rank spqr": partial(factors, rank=16, part=partial(bilevel, exponent=-4)),
}


@pytest.fixture(params=SETS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with loader.forced(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory that nothing was written to reads as NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


def all_weights(shape: tuple[int, int]) -> Iterator[tuple[str, Weight]]:
    for group in {shape[1], 32, 16, 8} - {g for g in (32, 16, 8) if shape[1] % g}:
        for name, make in FORMS.items():
            yield f"{name}, group {group}", make(shape, group=group, seed=group)
        for name, form in SPQR.items():
            yield f"spqr {name}, group {group}", form(shape, group=group, seed=group)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decoded_weights_are_those_of_unpack(isa: str, shape: tuple[int, int]) -> None:
    for name, weight in all_weights(shape):
        operands = native.prepare(weight.packed, torch.float32)
        assert torch.equal(native.decode(operands), layouts.unpack(weight.packed)), name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 17])
def test_products_are_within_rounding_of_float64(isa: str, shape: tuple[int, int], tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, shape[1], generator=generator)
    bias = torch.randn(shape[0], generator=generator)
    for name, weight in all_weights(shape):
        operands = native.prepare(weight.packed, torch.float32)
        found = native.linear(x, operands, bias)
        assert excess(found, x, weight, bias) <= 1, name


@pytest.mark.parametrize("shape", [(63, 96), (33, 1000), (5, 7), (130, 160)], ids=str)
@pytest.mark.parametrize("tokens", [18, 600])
def test_many_tokens_in_bfloat16(isa: str, shape: tuple[int, int], tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, shape[1], generator=generator).bfloat16()
    bias = torch.randn(shape[0], generator=generator)
    for name, weight in all_weights(shape):
        found = native.linear(x, native.prepare(weight.packed, torch.bfloat16), bias)
        assert found.dtype == torch.bfloat16 and excess(found, x, weight, bias) <= 1, name


@pytest.mark.parametrize("shape", [(100, 192), (33, 960)], ids=str)
@pytest.mark.parametrize("name", OTHERS)
def test_other_layouts(isa: str, name: str, shape: tuple[int, int]) -> None:
    weight = OTHERS[name](shape)
    operands = native.prepare(weight.packed, torch.float32)
    assert torch.equal(native.decode(operands), layouts.unpack(weight.packed))
    for dtype in (torch.float32, torch.bfloat16):
        bias = torch.randn(shape[0]).to(dtype)
        for tokens in (1, 2, 16, 17):
            x = torch.randn(tokens, shape[1], generator=torch.Generator().manual_seed(tokens)).to(dtype)
            assert excess(native.linear(x, operands, bias), x, weight, bias) <= 1, (dtype, tokens)


@pytest.mark.parametrize("name", ["additive 2x8 g8", "low rank int4", "2:4 + product"])
def test_gradients_of_other_layouts(name: str) -> None:
    weight = OTHERS[name]((40, 96))
    x = torch.randn(4, 96, requires_grad=True)
    native.linear(x, native.prepare(weight.packed, torch.float32), None).sum().backward()
    torch.testing.assert_close(x.grad, layouts.unpack(weight.packed).sum(0).expand(4, 96), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_an_input_that_is_not_finite_shows(isa: str, value: float) -> None:
    for make in (OTHERS["additive 2x8 g8"], FORMS["int4"], SPQR["2 bits, natural order"]):
        weight = make((64, 256))
        x = torch.zeros(1, 256)
        x[0, 77] = value
        found = native.linear(x, native.prepare(weight.packed, torch.float32), None)
        expected = x @ layouts.unpack(weight.packed).T
        assert found.isfinite().logical_not().equal(expected.isfinite().logical_not()) or value == 1e38
        assert found.isfinite().all() or not expected.isfinite().all() or value == 1e38


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_inputs_of_any_magnitude(isa: str, size: float) -> None:
    for make in (FORMS["int4 zero"], SPQR["3 bits"], OTHERS["additive 2x8 g8"], OTHERS["2:4 int4 delta"]):
        weight = make((40, 192))
        for tokens in (1, 3):
            x = torch.randn(tokens, 192, generator=torch.Generator().manual_seed(tokens)) * size
            assert excess(native.linear(x, native.prepare(weight.packed, torch.float32), None), x, weight) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("tokens", [1, 5, 40])
@pytest.mark.parametrize("form", [FORMS["int4 zero"], FORMS["int3 zero delta"], SPQR["3 bits"]], ids=["4", "3", "spqr"])
def test_inputs_of_every_dtype(isa: str, dtype: torch.dtype, tokens: int, form: partial[Weight]) -> None:
    weight = form((70, 192))
    x = torch.randn(2, tokens, 192, generator=torch.Generator().manual_seed(0)).to(dtype)[:1]
    for bias in (None, torch.randn(70).to(dtype)):
        found = native.linear(x, native.prepare(weight.packed, dtype), bias)
        assert found.dtype == dtype and found.shape == (1, tokens, 70)
        assert excess(found, x, weight, bias) <= 1


def test_float64_inputs_are_multiplied_in_float64() -> None:
    weight = integers((20, 64))
    x = torch.randn(3, 64, dtype=torch.float64)
    expected = torch.nn.functional.linear(x, layouts.unpack(weight.packed).double())
    torch.testing.assert_close(native.linear(x, native.prepare(weight.packed, torch.float64), None), expected)


def test_inputs_without_tokens_and_without_a_batch() -> None:
    operands = native.prepare(integers((20, 64)).packed, torch.float32)
    assert native.linear(torch.randn(0, 64), operands, None).shape == (0, 20)
    assert native.linear(torch.randn(64), operands, None).shape == (20,)
    strided = torch.randn(64, 3).T
    assert torch.equal(native.linear(strided, operands, None), native.linear(strided.contiguous(), operands, None))


@pytest.mark.parametrize("own", [False, True], ids=["openmp", "own"])
def test_one_and_many_threads_give_the_same_bits(isa: str, own: bool) -> None:
    """Of our own products: without a bfloat16 instruction many tokens are torch's, whose bits follow its threads."""
    before = torch.get_num_threads()
    weights = [integers((1000, 256), symmetric=False, share=0.01), bilevel((515, 256)), vectors((515, 256))]
    many = [(300, torch.bfloat16)] if loader.library().cn_has_many() else []
    for weight in [*weights, vectors((70, 256), books=1, bits=16)]:
        operands = native.prepare(weight.packed, torch.float32)
        for tokens, dtype in ((1, torch.float32), (4, torch.float32), *many):
            x = torch.randn(tokens, 256).to(dtype)
            found = []
            for threads in (1, 2, 7):
                torch.set_num_threads(threads)
                if own:
                    with loader.own_threads():
                        found.append(native.linear(x, operands, None))
                else:
                    found.append(native.linear(x, operands, None))
            torch.set_num_threads(before)
            assert all(torch.equal(found[0], other) for other in found[1:])


def test_the_block_can_be_copied_and_moved() -> None:
    operands = native.prepare(bilevel((40, 64)).packed, torch.float32)
    x = torch.randn(2, 64)
    assert torch.equal(native.linear(x, copy.deepcopy(operands), None), native.linear(x, operands, None))


def test_an_index_that_leads_out_is_refused() -> None:
    packed = bilevel((40, 64), share=0.05).packed
    for name, value in (("delta_col", 64), ("perm", 65535), ("delta_rowptr", 1 << 30)):
        planes = {key: plane.clone() for key, plane in packed.planes.items()}
        planes[name].view(torch.int16 if planes[name].element_size() == 2 else torch.int32)[3] = (
            value if value < 1 << 15 or name == "delta_rowptr" else value - (1 << 16)
        )
        with pytest.raises(FormatError, match=name):
            native.prepare(type(packed)(packed.shape, packed.scheme, planes), torch.float32)


def test_what_is_not_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = integers((8, 32)).packed.scheme
    assert native.reject(scheme, (8, 32), CPU) is None
    assert "not on cuda" in str(native.reject(scheme, (8, 32), torch.device("cuda")))
    monkeypatch.setattr(loader, "unavailable", lambda: "not built")
    assert native.reject(scheme, (8, 32), CPU) == "not built"


def test_gradients_are_those_of_the_dense_layer() -> None:
    weight = integers((12, 64))
    operands = native.prepare(weight.packed, torch.float32)
    leaves = torch.randn(3, 5, 64), torch.randn(12)
    found, expected = ([leaf.clone().requires_grad_() for leaf in leaves] for _ in range(2))
    native.linear(found[0], operands, found[1]).square().sum().backward()
    torch.nn.functional.linear(expected[0], layouts.unpack(weight.packed), expected[1]).square().sum().backward()
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5 * float(other.grad.abs().max()))


def test_opcheck() -> None:
    operands = list(native.prepare(integers((12, 64)).packed, torch.float32))
    x, bias = torch.randn(2, 64, requires_grad=True), torch.randn(12, requires_grad=True)
    torch.library.opcheck(torch.ops.compress.native_linear.default, (x, operands, bias))
