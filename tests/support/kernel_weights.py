"""Packed weights of every layout for the kernels: ragged, tiny, of any magnitude; and what a right product is.

Shape letters: N out features, K in features, G groups, T tokens, A magnitude of what is summed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.format import layouts
from compress.format.layouts import additive, dense, int_group, low_rank, sparse_nm, spqr
from compress.format.packed import PackedTensor

Generator = torch.Generator
ROUNDOFF = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
CONFIDENCE = 4.0
"""Rounding errors of n terms walk randomly: √n times this bounds them but for once in thousands of products
(Higham and Mary 2019). A wrong weight changes a product by far more."""


@dataclass(frozen=True)
class Weight:
    """A packed weight and the largest magnitude of what a kernel may sum for each of its elements."""

    packed: PackedTensor
    reach: torch.Tensor
    """[N, K]"""


def _codes(generator: Generator, bits: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 1 << bits, shape, generator=generator)


def _sparse(generator: Generator, shape: tuple[int, int], share: float) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(shape, generator=generator) < share, torch.randn(shape, generator=generator).half().float()


def integers(
    shape: tuple[int, int], bits: int = 4, group: int = 32, symmetric: bool = True, share: float = 0.0,
    dtype: torch.dtype = torch.float16, size: float = 1.0, seed: int = 0,
) -> Weight:  # fmt: skip
    """Returns a weight of int_group.v1 with scales around `size`."""
    generator = torch.Generator().manual_seed(seed)
    groups = shape[1] // group
    scale_NG = ((torch.rand(shape[0], groups, generator=generator) + 0.5) * size).to(dtype)
    outlier_NK, delta_NK = _sparse(generator, shape, share)
    packed = int_group.pack(
        _codes(generator, bits, *shape),
        scale_NG,
        None if symmetric else _codes(generator, bits, shape[0], groups),
        bits=bits,
        outlier_NK=outlier_NK if share else None,
        delta_NK=delta_NK if share else None,
    )
    far_NK = scale_NG.float().repeat_interleave(group, 1) * (1 << bits)
    return Weight(packed, far_NK + (delta_NK.abs() * outlier_NK if share else 0))


def bilevel(
    shape: tuple[int, int], bits: int = 3, group: int = 16, stats_bits: int = 3, stats_group: int = 16,
    exponent: int = 0, permuted: bool = True, share: float = 0.01, seed: int = 0,
) -> Weight:  # fmt: skip
    """Returns a weight of spqr.v1."""
    generator = torch.Generator().manual_seed(seed)
    groups, runs = shape[1] // group, -(-shape[0] // stats_group)
    outlier_NK, delta_NK = _sparse(generator, shape, share)
    second = {name: (torch.rand(runs, groups, generator=generator) * 0.3).half() for name in spqr.SECOND_LEVEL}
    packed = spqr.pack(
        _codes(generator, bits, *shape),
        *(_codes(generator, stats_bits, shape[0], groups) for _ in range(2)),
        second,
        bits=bits,
        stats_bits=stats_bits,
        stats_group=stats_group,
        exponent=exponent,
        perm_K=torch.randperm(shape[1], generator=generator) if permuted else None,
        outlier_NK=outlier_NK,
        delta_NK=delta_NK,
    )
    # statistics are at most 0.3 · 2^stats_bits
    reach = (0.3 * (1 << stats_bits)) * ((1 << bits) + 0.3 * (1 << stats_bits)) * 2.0**exponent
    return Weight(packed, layouts.unpack(packed).abs() + reach)


def vectors(
    shape: tuple[int, int], books: int = 2, bits: int = 8, group: int = 8,
    dtype: torch.dtype = torch.float16, seed: int = 0,
) -> Weight:  # fmt: skip
    """Returns a weight of additive.v1."""
    generator = torch.Generator().manual_seed(seed)
    codebooks = torch.randn(books, 1 << bits, group, generator=generator)
    scale_N = (torch.rand(shape[0], generator=generator) + 0.5).to(dtype)
    packed = additive.pack(_codes(generator, bits, shape[0], shape[1] // group, books), codebooks, scale_N)
    reach_N1 = scale_N.float()[:, None] * codebooks.half().float().abs().amax() * books
    return Weight(packed, reach_N1.expand(shape))


def factors(
    shape: tuple[int, int], rank: int, part: Callable[..., Weight] | torch.dtype = torch.bfloat16, seed: int = 0
) -> Weight:
    """Returns a weight of low_rank.v1 with factors made by `part`, or dense in a dtype."""
    pairs = [(shape[0], rank), (rank, shape[1])]
    if isinstance(part, torch.dtype):
        generator = torch.Generator().manual_seed(seed)
        made = [dense.pack(torch.randn(pair, generator=generator).to(part)) for pair in pairs]
    else:
        made = [part(pair, seed=seed + i).packed for i, pair in enumerate(pairs)]
    left, right = (layouts.unpack(factor).abs() for factor in made)
    return Weight(low_rank.pack(*made), left @ right)


def kept(
    shape: tuple[int, int], n: int = 2, m: int = 4, values: Callable[..., Weight] | torch.dtype = torch.bfloat16,
    slorb: int = 0, seed: int = 0,
) -> Weight:  # fmt: skip
    """Returns a weight of sparse_nm.v1 with values made by `values`, or dense in a dtype."""
    generator = torch.Generator().manual_seed(seed)
    mask_NK = torch.zeros(shape, dtype=torch.bool)
    order = torch.rand(shape[0], shape[1] // m, m, generator=generator).argsort(-1)
    mask_NK.view(order.shape).scatter_(-1, order[..., :n], True)
    kept_shape = (shape[0], shape[1] // m * n)
    if isinstance(values, torch.dtype):
        weight = Weight(dense.pack(torch.randn(kept_shape, generator=generator).to(values)), torch.zeros(()))
        reach = 5.0
    else:
        weight = values(kept_shape, seed=seed)
        reach = float(weight.reach.max())
    pair = None
    if slorb:
        pair = torch.randn(shape[0], slorb, generator=generator), torch.randn(slorb, shape[1], generator=generator)
        reach += float((pair[0].abs() @ pair[1].abs()).max())
    packed = sparse_nm.pack(weight.packed, mask_NK, n=n, m=m, slorb=pair)
    return Weight(packed, torch.full(shape, reach))


def excess(found: torch.Tensor, x: torch.Tensor, weight: Weight, bias: torch.Tensor | None = None) -> float:
    """Returns the largest error of a product as a share of what rounding may cost; above 1 the product is wrong.

    Sums are made in float32 whatever the inputs are; weights and outputs are rounded to the dtype of the inputs.
    """
    x_TK = x.reshape(-1, x.shape[-1]).double()
    exact_TN = x_TK @ layouts.unpack(weight.packed).double().T + (0 if bias is None else bias.double())
    reach_TN = x_TK.abs() @ weight.reach.double().T + (0 if bias is None else bias.double().abs())
    own = ROUNDOFF[x.dtype]
    rounded = 0.0 if x.dtype == torch.float32 else own
    allowed = (CONFIDENCE * x.shape[-1] ** 0.5 + 8) * ROUNDOFF[torch.float32] + rounded
    bound_TN = reach_TN * allowed + exact_TN.abs() * own + torch.finfo(x.dtype).tiny
    errors = (found.reshape(exact_TN.shape).double() - exact_TN).abs() / bound_TN
    return float("inf") if errors.isnan().any() else float(errors.max()) if errors.numel() else 0.0
