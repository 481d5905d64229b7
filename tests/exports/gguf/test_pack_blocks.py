"""Blocks of every type, decoded by the package `gguf`: the same weights, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.exports import integers as integers_of
from compress.exports.gguf import block_types, pack_blocks, target
from compress.exports.linear import LINEAR, Linear
from compress.format import layouts
from compress.format.layouts import int_group
from tests.support.exports import integers
from tests.support.gguf_models import two_levels

gguf = pytest.importorskip("gguf", reason="the package gguf is in the extra gguf")


def linear(bits: int, group: int | None, symmetric: bool, scale: torch.dtype = torch.float16) -> tuple[Linear, object]:
    packed = integers(bits, group, symmetric=symmetric, scale=scale)(torch.empty(6, 512))
    return Linear("x", LINEAR, packed.scheme, packed.shape, packed.scheme.group_size, "x", 0), packed


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [32, 64, 256, None])
@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_of_every_width(bits: int, group: int | None, symmetric: bool) -> None:
    one, packed = linear(bits, group, symmetric)
    if bits == 8 and not symmetric:
        assert target.reason(one) == "no type there has 8 bits and zero points"
        return
    kind = block_types.choose(one)
    blocks = target.tensors(one, packed)["blocks"].numpy()  # type: ignore[arg-type]
    weight = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[kind.name])
    assert np.array_equal(weight, int_group.unpack(packed).numpy())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", block_types.TYPES.values(), ids=lambda kind: kind.name)
def test_sizes(kind: block_types.BlockType) -> None:
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.name]] == (kind.weights, kind.size_bytes)


def test_what_no_type_holds() -> None:
    assert target.reason(linear(4, 16, True)[0]) == "groups are multiples of 32 there"
    assert target.reason(linear(4, 32, True, torch.float32)[0]) == "scales are float16 there"


@pytest.mark.parametrize(
    ("name", "lowest", "highest", "top", "middle"),
    [("Q2_K", 0, 15, 3, 0), ("Q3_K", -32, 31, 7, 4), ("Q4_K", 0, 63, 15, 0), ("Q5_K", 0, 63, 31, 0),
     ("Q6_K", -128, 127, 63, 32)],
)  # fmt: skip
def test_scales_and_minima_of_parts(name: str, lowest: int, highest: int, top: int, middle: int) -> None:
    """Each part of a block with a scale of its own, over the whole range."""
    generator = torch.Generator().manual_seed(0)

    def drawn(low: int, high: int, *shape: int) -> torch.Tensor:
        values = torch.randint(low, high + 1, shape, generator=generator)
        values.view(-1)[:2] = torch.tensor([low, high])
        return values

    count = pack_blocks.PARTS[name]
    code_NBw, scale_NBS = drawn(0, top, 5, 3, 256), drawn(lowest, highest, 5, 3, count)
    minimum_NBS = torch.zeros_like(scale_NBS) if middle else drawn(lowest, highest, 5, 3, count)
    d_NB, dmin_NB = (torch.rand(2, 5, 3, generator=generator) + 0.5).half()
    blocks = pack_blocks.pack_parts(block_types.TYPES[name], code_NBw, d_NB, scale_NBS, dmin_NB, minimum_NBS)
    found = gguf.quants.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[name])
    scaled = (d_NB.float()[..., None] * scale_NBS)[..., None] * (code_NBw.view(5, 3, count, -1) - middle).float()
    weight = scaled - (dmin_NB.float()[..., None] * minimum_NBS)[..., None]
    assert np.array_equal(found, weight.view(5, -1).numpy())


@pytest.mark.parametrize("name", ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"])
def test_weights_on_the_grids_of_k_quants(name: str) -> None:
    packed = two_levels(name)(torch.randn(6, 512, generator=torch.Generator().manual_seed(0)))
    one = Linear("x", LINEAR, packed.scheme, packed.shape, packed.scheme.group_size, "x", 0)
    assert target.reason(one) is None and block_types.choose(one).name == name.upper()
    found = gguf.quants.dequantize(
        target.tensors(one, packed)["blocks"].numpy(), gguf.GGMLQuantizationType[name.upper()]
    )
    assert np.array_equal(found, layouts.unpack(packed).numpy())
    some = integers_of.rows_of(replace(one, shape=(2, 512), start=3), packed)  # as gate and up of an expert are cut
    assert torch.equal(layouts.unpack(some), layouts.unpack(packed)[3:5])
