"""Weights on the grids of K-quants: what is packed is what the sweep computed with, and better than plain integers."""

from __future__ import annotations

from types import ModuleType
from types import SimpleNamespace as Stats
from typing import Any

import pytest
import torch

from compress.errors import MethodError
from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.methods import gptq, rtn
from compress.numerics.super_block_grid import BITS


def weight_and_gram() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    w_NK = torch.randn(24, 512, generator=generator) / 16
    w_NK[:, ::37] *= 4
    w_NK[3, 256:272] = 0  # a group without a weight
    inputs = torch.randn(1200, 512, generator=generator)
    inputs = inputs + inputs @ torch.randn(512, 512, generator=generator) / 16
    return w_NK, inputs.T @ inputs


def loss(packed: PackedTensor, w_NK: torch.Tensor, gram_KK: torch.Tensor) -> float:
    wrong_NK = layouts.unpack(packed) - w_NK
    return float((wrong_NK @ gram_KK * wrong_NK).sum() / (w_NK @ gram_KK * w_NK).sum())


@pytest.mark.parametrize("kind", BITS)
def test_solved_codes_beat_rounding_and_a_scale_of_one_level(kind: str) -> None:
    w_NK, gram_KK = weight_and_gram()

    def lost(method: ModuleType, **options: Any) -> float:
        packed = method.solve(w_NK, Stats(gram_KK=gram_KK, peak=0.0), method.Config(**options))
        layouts.check(packed)
        assert not options.get("grid") or packed.scheme.layout == "super_block.v1"
        return loss(packed, w_NK, gram_KK)

    rounded, solved = lost(rtn, grid=kind), lost(gptq, grid=kind)
    assert solved < 0.75 * rounded
    natural = lost(gptq, grid=kind, act_order=False)
    assert 0.8 * solved < natural < 1.25 * solved
    # float16 scales and integer zero points in groups of the same size, or of the next: more bits
    group, symmetric = (16, kind in ("q3_k", "q6_k")) if kind in ("q2_k", "q3_k", "q6_k") else (32, False)
    assert solved < 1.06 * lost(gptq, bits=BITS[kind], group_size=group, symmetric=symmetric)


def test_rows_that_are_no_whole_blocks_get_types_of_32() -> None:
    w_NK, gram_KK = weight_and_gram()
    for kind, bits in (("q2_k", 4), ("q4_k", 5), ("q6_k", 8)):
        stats = Stats(gram_KK=gram_KK[:96, :96], peak=0.0)
        scheme = gptq.solve(w_NK[:, :96], stats, gptq.Config(grid=kind)).scheme
        assert (scheme.layout, scheme.bits, scheme.group_size) == ("int_group.v1", bits, 32)
        assert scheme.options["symmetric"] and scheme.options["scale_dtype"] == "float16"


def test_scales_of_either_sign_use_the_code_without_an_opposite() -> None:
    w_NK, gram_KK = weight_and_gram()
    w_NK, gram_KK = w_NK[:, :96], gram_KK[:96, :96]
    signed, plain = (
        gptq.solve(w_NK, Stats(gram_KK=gram_KK, peak=0.0), gptq.Config(**options))
        for options in ({"grid": "q3_k"}, {"bits": 4, "group_size": 32})
    )
    scale_NG = signed.planes["scale"]
    assert (scale_NG > 0).any() and (scale_NG < 0).any()
    assert loss(signed, w_NK, gram_KK) < 0.95 * loss(plain, w_NK, gram_KK)


def test_what_the_format_fixes_is_no_option() -> None:
    for options in ({"bits": 3}, {"group_size": 32}, {"symmetric": False}, {"scale_dtype": "float32"}):
        with pytest.raises(MethodError, match="the format fixes it"):
            rtn.Config(grid="q3_k", **options)
    with pytest.raises(MethodError, match="32"):
        rtn.check((8, 48), rtn.Config(grid="q4_k"))
