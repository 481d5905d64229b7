"""Packed tensors that every kernel has to get right, inputs for them, and how wrong a product may be.

Shape letters: M tokens, N out features, K in features, G groups.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from compress.format import layouts
from compress.format.layouts import additive, dense, int_group, low_rank, sparse_nm, spqr
from compress.format.packed import PackedTensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOKENS = (1, 2, 16, 17, 40)


def _random(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(hash(key) % 2**31)


def ints(
    shape: tuple[int, int], bits: int, group: int, *, symmetric: bool = False,
    scale: torch.dtype = torch.float16, size: float = 1.0, outliers: float = 0.0,
) -> PackedTensor:  # fmt: skip
    """int_group.v1 with codes of the whole range, signed scales of magnitude `size` and a share of outliers."""
    random = _random(*shape, bits, group)
    codes = torch.randint(0, 1 << bits, shape, generator=random)
    stats = (shape[0], shape[1] // group)
    scale_NG = (torch.randn(stats, generator=random) * size).to(scale)
    zero_NG = None if symmetric else torch.randint(0, 1 << bits, stats, generator=random)
    mask = torch.rand(shape, generator=random) < outliers
    value = (torch.randn(shape, generator=random) * 3 * size).half().float()
    if outliers:  # a row without entries, and one that is full of them
        mask[0], mask[-1] = False, True
    return int_group.pack(codes, scale_NG, zero_NG, bits=bits, outlier_NK=mask, delta_NK=value)


def spqrs(
    shape: tuple[int, int], bits: int, group: int, *, stats_bits: int = 3, stats_group: int = 16,
    exponent: int = -4, permuted: bool = True, outliers: float = 0.01,
) -> PackedTensor:  # fmt: skip
    """spqr.v1 with random codes of weights and statistics."""
    random = _random(*shape, bits, group, stats_bits)
    rows, features = shape
    stats, level = (rows, features // group), (-(-rows // stats_group), features // group)
    mask = torch.rand(shape, generator=random) < outliers
    if outliers:
        mask[0], mask[-1] = False, True
    return spqr.pack(
        torch.randint(0, 1 << bits, shape, generator=random),
        torch.randint(0, 1 << stats_bits, stats, generator=random),
        torch.randint(0, 1 << stats_bits, stats, generator=random),
        {name: torch.randn(level, generator=random).half() for name in spqr.SECOND_LEVEL},
        bits=bits, stats_bits=stats_bits, stats_group=stats_group, exponent=exponent,
        perm_K=torch.randperm(features, generator=random) if permuted else None,
        outlier_NK=mask, delta_NK=torch.randn(shape, generator=random).half().float(),
    )  # fmt: skip


def books(
    shape: tuple[int, int], count: int, bits: int, width: int, *, scale: torch.dtype = torch.float16
) -> PackedTensor:
    """additive.v1 with `count` codebooks of 2^bits vectors of `width`."""
    random = _random(*shape, count, bits, width)
    codes = torch.randint(0, 1 << bits, (shape[0], shape[1] // width, count), generator=random)
    vectors = torch.randn(count, 1 << bits, width, generator=random).half()
    return additive.pack(codes, vectors, torch.randn(shape[0], generator=random).to(scale))


def reals(shape: tuple[int, int], dtype: torch.dtype) -> PackedTensor:
    """dense.v1, a part."""
    return dense.pack(torch.randn(shape, generator=_random(*shape)).to(dtype))


def sparse(
    shape: tuple[int, int], n: int, m: int, values: Callable[[tuple[int, int]], PackedTensor], rank: int = 0
) -> PackedTensor:
    """sparse_nm.v1 with random places, and an added product of `rank` if that is above 0."""
    random = _random(*shape, n, m)
    rows, features = shape
    kept = torch.rand(rows, features // m, m, generator=random).argsort(-1) < n
    factors = [torch.randn(size, generator=random).bfloat16() for size in ((rows, rank), (rank, features))]
    slorb = (factors[0], factors[1]) if rank else None
    return sparse_nm.pack(values((rows, features // m * n)), kept.view(shape), n=n, m=m, slorb=slorb)


CASES: dict[str, Callable[[], PackedTensor]] = {
    **{
        f"int{bits} g64 {'symmetric' if symmetric else 'zeros'}": (
            lambda bits=bits, symmetric=symmetric: ints((21, 192), bits, 64, symmetric=symmetric)
        )
        for bits, symmetric in itertools.product(range(1, 9), (False, True))
    },
    "int4 g128": lambda: ints((40, 1024), 4, 128),
    "int4 row": lambda: ints((24, 640), 4, 640, symmetric=True),
    "int3 g16": lambda: ints((19, 560), 3, 16),
    "int4 g32": lambda: ints((33, 320), 4, 32),
    "int4 g8": lambda: ints((16, 1032), 4, 8),
    "int2 g1": lambda: ints((5, 40), 2, 1),
    "int5 g21": lambda: ints((7, 63), 5, 21),
    "int3 g1000": lambda: ints((17, 1000), 3, 1000),
    "int4 one row": lambda: ints((1, 64), 4, 32),
    "int8 float32 huge": lambda: ints((20, 128), 8, 64, scale=torch.float32, size=2.0**60),
    "int4 float32 tiny": lambda: ints((20, 128), 4, 64, scale=torch.float32, size=2.0**-60),
    "int4 bfloat16": lambda: ints((20, 128), 4, 64, scale=torch.bfloat16),
    "int4 outliers": lambda: ints((33, 256), 4, 128, outliers=0.02),
    "int3 g16 outliers": lambda: ints((17, 96), 3, 16, outliers=0.1),
    "spqr 3 g16": lambda: spqrs((48, 256), 3, 16),
    "spqr 3 g16 natural": lambda: spqrs((37, 208), 3, 16, permuted=False, outliers=0.0),
    "spqr 4 g32": lambda: spqrs((20, 96), 4, 32, stats_group=7, exponent=9),
    "spqr 2 g64 wide statistics": lambda: spqrs((33, 320), 2, 64, stats_bits=6, stats_group=8),
    "spqr 3 g12": lambda: spqrs((15, 60), 3, 12, stats_bits=4, exponent=-30),
    "aqlm 2x8 g8": lambda: books((33, 1088), 2, 8, 8),
    "aqlm 1x16 g8": lambda: books((18, 256), 1, 16, 8),
    "aqlm 3x5 g6": lambda: books((9, 108), 3, 5, 6, scale=torch.float32),
    "aqlm 2x12 g16": lambda: books((10, 160), 2, 12, 16),
    "aqlm 4x1 g1": lambda: books((6, 33), 4, 1, 1),
    "2:4 bfloat16": lambda: sparse((33, 320), 2, 4, lambda shape: reals(shape, torch.bfloat16)),
    "2:4 float32": lambda: sparse((9, 36), 2, 4, lambda shape: reals(shape, torch.float32)),
    "4:8 float16": lambda: sparse((20, 264), 4, 8, lambda shape: reals(shape, torch.float16)),
    "2:4 int4": lambda: sparse((37, 512), 2, 4, lambda shape: ints(shape, 4, 64)),
    "2:4 int4 row": lambda: sparse((20, 200), 2, 4, lambda shape: ints(shape, 4, 100, symmetric=True)),
    "3:5 int3": lambda: sparse((11, 60), 3, 5, lambda shape: ints(shape, 3, 9)),
    "1:2 int8": lambda: sparse((16, 128), 1, 2, lambda shape: ints(shape, 8, 32)),
    "2:4 bfloat16 slorb": lambda: sparse((24, 160), 2, 4, lambda shape: reals(shape, torch.bfloat16), rank=5),
    "low rank bfloat16": lambda: low_rank.pack(reals((48, 16), torch.bfloat16), reals((16, 96), torch.bfloat16)),
    "low rank float32": lambda: low_rank.pack(reals((21, 5), torch.float32), reals((5, 63), torch.float32)),
    "low rank int4 int8": lambda: low_rank.pack(ints((64, 32), 4, 32), ints((32, 128), 8, 64, outliers=0.05)),
}
"""Every layout; wide and narrow, ragged, signed, tiny and huge. Names tell layout, bits and group."""


def inputs(tokens: int, features: int, dtype: torch.dtype, size: float = 1.0) -> torch.Tensor:
    """Returns signed inputs [M, K] whose magnitudes differ by powers of two, one of them exactly 0."""
    random = _random(tokens, features)
    x_MK = torch.randn(tokens, features, generator=random) * 2.0 ** torch.randint(-4, 5, (features,), generator=random)
    x_MK[:, 0] = 0.0
    return (x_MK * size).to(dtype)


def magnitude(packed: PackedTensor, factored: bool = False) -> torch.Tensor:
    """Returns float64 [N, K]: the sizes of what is added up for each weight, which bound the error of a product.

    That is |w| for a kernel that decodes a weight before it multiplies; with a sparse part |dense| + |delta|, with
    codebooks the size of the sum, with factors |L|·|R|. `factored` is for kernels that take s·(Σ q·x − z·Σ x): there
    it is |s·q| + |s·z|.
    """
    layout, planes = packed.scheme.layout, packed.planes
    if layout == low_rank.LAYOUT:
        parts = layouts.parts(packed)
        return magnitude(parts["left"], factored) @ magnitude(parts["right"], factored)
    if layout == sparse_nm.LAYOUT:
        values = magnitude(layouts.parts(packed)["values"], factored)
        found = torch.zeros(packed.shape, dtype=torch.float64)
        found[sparse_nm.mask(packed)] = values.flatten()
        if (factors := sparse_nm.slorb(packed)) is not None:
            found += factors[0].double().abs() @ factors[1].double().abs()
        return found
    if layout == dense.PART_LAYOUT:
        return planes["weight"].double().abs()
    expanded = layouts.expand(packed)
    if layout == additive.LAYOUT and factored:
        vectors = planes["codebooks"].double().abs()
        codes = expanded.parts.codes_NJM.long()
        sums = torch.stack([vectors[book][codes[..., book]] for book in range(len(vectors))]).sum(0)
        return sums.flatten(1) * planes["scale"].double().abs()[:, None]
    if "delta_val" not in planes and not factored:
        return layouts.unpack(packed).double().abs()
    silent = planes | ({"delta_val": torch.zeros_like(planes["delta_val"])} if "delta_val" in planes else {})
    alone = layouts.assemble(expanded, silent).double()
    delta = layouts.unpack(packed).double() - alone
    if not factored or layout == additive.LAYOUT:
        return alone.abs() + delta.abs()
    # |s·q| + |s·z| ≤ 2·|s·z| + |s·(q − z)|, and s·z is what a code of 0 decodes to
    codes = expanded.parts._replace(codes=torch.zeros_like(expanded.parts.codes))
    at_zero = layouts.assemble(layouts.Expanded(layout, codes), silent).double()
    return alone.abs() + 2 * at_zero.abs() + delta.abs()


def exact(packed: PackedTensor, x_MK: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Returns the product in float64."""
    result = x_MK.double() @ layouts.unpack(packed).double().T
    return result if bias is None else result + bias.double()


def bound(
    packed: PackedTensor, x_MK: torch.Tensor, bias: torch.Tensor | None, *, factored: bool = False
) -> torch.Tensor:
    """Returns float64 [M, N]: the largest error a right kernel can make, whatever order it sums in.

    A sum of K products in float32 is off by at most γ_k·Σ|x||w| with γ_k = k·u / (1 − k·u), u = 2^-24 (Higham,
    Accuracy and Stability, §3.1), k = K plus the few operations of one decoding. Where inputs are narrower, each
    weight may have been rounded to their dtype (u_d, and half the smallest subnormal below its normal range), as the
    dense layer's are; a product of two also its inner result. The output is rounded once.
    """
    dtype, features = x_MK.dtype, packed.shape[1]
    limits = torch.finfo(dtype)
    narrow = 0.0 if dtype == torch.float32 else limits.eps / 2
    subnormal = limits.smallest_normal * limits.eps / 2
    two = packed.scheme.layout == low_rank.LAYOUT or packed.scheme.options.get("slorb", 0)
    terms = (features + 16) * (2 if two else 1) * 2.0**-24
    relative = terms / (1 - terms) + narrow * (3.1 if two else 1)
    size_MN = x_MK.double().abs() @ magnitude(packed, factored).T
    if bias is not None:
        size_MN = size_MN + bias.double().abs()
    error = relative * size_MN + (x_MK.double().abs().sum(1, keepdim=True) + 1) * subnormal
    return error + limits.eps / 2 * (exact(packed, x_MK, bias).abs() + error)


def fits(packed: PackedTensor, x_MK: torch.Tensor) -> bool:
    """Returns whether weights and products stay well below the largest number of the dtype of x."""
    largest = torch.finfo(x_MK.dtype).max / 4
    product_MN = x_MK.double().abs() @ magnitude(packed).T
    return bool(layouts.unpack(packed).abs().max() < largest and product_MN.max() < largest)


def worst(
    found: torch.Tensor, packed: PackedTensor, x_MK: torch.Tensor, bias: torch.Tensor | None, **how: Any
) -> float:
    """Returns the largest error in units of its bound: at most 1 for a right kernel; infinite if not all is finite."""
    error = (found.double() - exact(packed, x_MK, bias)).abs() / bound(packed, x_MK, bias, **how)
    return float(error.max()) if found.isfinite().all() else float("inf")


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Memory that torch hands out uninitialised holds NaN, so that an output nobody wrote is seen."""

    def filled(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def made(*args: Any, **kwargs: Any) -> torch.Tensor:
            tensor = make(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return made

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            patch.setattr(owner, name, filled(getattr(owner, name)))
        yield
