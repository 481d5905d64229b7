"""Composite layouts: golden bytes (never edited), parts and their planes, exact bits per weight, and damaged planes."""

import dataclasses
from pathlib import Path

import pytest
import torch

from compress.errors import FormatError, MethodError
from compress.format import layouts, manifest, naming
from compress.format.layouts import dense, int_group, low_rank, sparse_nm
from compress.format.packed import PackedTensor
from compress.format.reader import open_checkpoint
from compress.format.scheme import Scheme
from compress.format.writer import CheckpointWriter
from compress.methods import rtn, spqr
from compress.numerics import nm


def golden_low_rank() -> PackedTensor:
    """A float16 left part and a right part of 3-bit codes: [4, 2] times [2, 12]."""
    left = (torch.arange(8).reshape(4, 2) - 3) / 4
    codes = torch.arange(24).reshape(2, 12) % 8
    scale = torch.tensor([[0.5, 2.0], [1.0, 0.25]], dtype=torch.float16)
    return low_rank.pack(dense.pack(left.half()), int_group.pack(codes, scale, None, bits=3))


def golden_sparse() -> PackedTensor:
    """bfloat16 values at 2:4 with an added product of rank 1: [3, 8]."""
    mask = torch.tensor([[1, 1, 0, 0, 0, 1, 0, 1], [0, 0, 1, 1, 1, 0, 1, 0], [0, 1, 1, 0, 1, 0, 0, 1]]).bool()
    values = (torch.arange(12).reshape(3, 4) - 5) / 8
    slorb = torch.tensor([[1.0], [-0.5], [0.0]]), torch.arange(8)[None] / 16
    return sparse_nm.pack(dense.pack(values.bfloat16()), mask, n=2, m=4, slorb=slorb)


GOLDEN = {
    "low_rank": {
        "weight": "00ba00b800b4000000340038003a003c",
        "right_weight": "88c6fa8806000000ac8f68ac0f000000",
        "right_scale": "00380040003c0034",
    },
    "sparse_nm": {
        "weight": "20bf00bfc0be80be00be0000003e803ec03e003f203f403f",
        "sparse_index": "d40000008e000000c9000000",
        "slorb_left": "803f00bf0000",
        "slorb_right": "0000803d003e403e803ea03ec03ee03e",
    },
}
MAKERS = {"low_rank": golden_low_rank, "sparse_nm": golden_sparse}
every = pytest.mark.parametrize("name", list(MAKERS))


def with_planes(packed: PackedTensor, **planes: torch.Tensor) -> PackedTensor:
    return PackedTensor(packed.shape, packed.scheme, packed.planes | planes)


def with_options(packed: PackedTensor, **changes: object) -> Scheme:
    return dataclasses.replace(packed.scheme, options={**packed.scheme.options, **changes})


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@every
def test_golden_bytes(name: str) -> None:
    packed = MAKERS[name]()
    layouts.check(packed)
    found = {
        plane: bytes(t.contiguous().view(torch.uint8).flatten().tolist()).hex() for plane, t in packed.planes.items()
    }
    assert found == GOLDEN[name]


def test_meaning_of_low_rank() -> None:
    weight, parts = layouts.unpack(golden_low_rank()), layouts.parts(golden_low_rank())
    assert weight[0, 0].item() == -0.75 * (0 - 4) * 0.5 - 0.5 * (4 - 4) * 1.0
    assert weight[3, 11].item() == 0.75 * (11 % 8 - 4) * 2.0 + 1.0 * (23 % 8 - 4) * 0.25
    assert torch.equal(weight, layouts.unpack(parts["left"]) @ layouts.unpack(parts["right"]))


def test_meaning_of_sparse() -> None:
    weight = layouts.unpack(golden_sparse())
    assert weight[0].tolist() == [
        -0.625,
        -0.5 + 1 / 16,
        2 / 16,
        3 / 16,
        4 / 16,
        -0.375 + 5 / 16,
        6 / 16,
        -0.25 + 7 / 16,
    ]
    assert weight[2].tolist() == [0, 0.375, 0.5, 0, 0.625, 0, 0, 0.75]


@every
def test_parts_go_back_to_the_same_bytes(name: str) -> None:
    packed = MAKERS[name]()
    again = layouts.repack(packed, layouts.parts(packed))
    assert again.scheme == packed.scheme and list(again.planes) == list(packed.planes)
    assert all(torch.equal(plane, packed.planes[key]) for key, plane in again.planes.items())
    for part in layouts.parts(packed).values():
        assert layouts.parts(part) == {}


def test_every_plain_layout_can_be_a_part() -> None:
    values = random(16, 32)
    for one in (
        rtn.solve(values, None, rtn.Config(bits=3, group_size=8, symmetric=False)),
        spqr.solve(values, None, spqr.Config(bits=3)) if not spqr.NEEDS else dense.pack(values.half()),
        dense.pack(values),
    ):
        mask = nm.mask_nm(random(16, 64, seed=1), 2, 4)
        packed = sparse_nm.pack(one, mask, n=2, m=4)
        layouts.check(packed)
        assert torch.equal(layouts.unpack(packed)[mask].view(16, 32), layouts.unpack(one))
        assert not layouts.unpack(packed)[~mask].any()
        product = low_rank.pack(dense.pack(random(48, 16)), one)
        layouts.check(product)
        torch.testing.assert_close(layouts.unpack(product), random(48, 16) @ layouts.unpack(one))


def test_bits_per_weight_are_exact() -> None:
    w = random(32, 256)
    half = nm.pack(w, nm.mask_nm(w.abs(), 2, 4), 2, 4)
    assert half.bits_per_weight == 9.0
    assert torch.equal(layouts.unpack(half), torch.where(sparse_nm.mask(half), w.bfloat16().float(), 0.0))
    values = rtn.solve(layouts.unpack(layouts.parts(half)["values"]), None, rtn.Config(bits=4, group_size=128))
    assert layouts.repack(half, {"values": values}).bits_per_weight == 2 + 1 + 16 / 256
    factors = low_rank.pack(dense.pack(random(32, 8).bfloat16()), dense.pack(random(8, 256).bfloat16()))
    assert factors.bits_per_weight == 16 * 8 * (32 + 256) / (32 * 256)


@pytest.mark.parametrize("n,m", [(2, 4), (1, 4), (4, 8), (3, 5), (1, 2), (255, 256)])
def test_masks_keep_n_of_m_and_survive(n: int, m: int) -> None:
    score = torch.randint(0, 4, (3, 2 * m), generator=torch.Generator().manual_seed(2)).float()  # many are equal
    mask = nm.mask_nm(score, n, m)
    groups, kept = score.view(3, 2, m), mask.view(3, 2, m)
    assert (kept.sum(-1) == n).all()
    worst_kept = groups.masked_fill(~kept, torch.inf).amin(-1)
    best_dropped = groups.masked_fill(kept, -torch.inf).amax(-1)
    assert (worst_kept >= best_dropped).all()
    packed = nm.pack(score + 1, mask, n, m)
    layouts.check(packed)
    assert torch.equal(sparse_nm.mask(packed), mask) and torch.equal(layouts.unpack(packed), (score + 1) * mask)


def test_impossible_masks_are_refused() -> None:
    for n, m in ((0, 4), (4, 4), (5, 4), (2, 512)):
        with pytest.raises(MethodError, match="1 ≤ n < m"):
            nm.mask_nm(random(2, 512), n, m)
    with pytest.raises(MethodError, match=r"m=4 does not divide in_features=6.*Allowed: 2"):
        nm.mask_nm(random(2, 6), 2, 4)
    with pytest.raises(MethodError, match="NaN"):
        nm.mask_nm(torch.full((2, 8), torch.nan), 2, 4)
    with pytest.raises(FormatError, match="keep 2 of every 4"):
        nm.pack(random(2, 8), torch.ones(2, 8, dtype=torch.bool), 2, 4)


def test_damage_is_refused() -> None:
    sparse, product = golden_sparse(), golden_low_rank()
    broken = [
        (with_planes(sparse, sparse_index=torch.zeros_like(sparse.planes["sparse_index"])), "does not rise"),
        (with_planes(sparse, weight=sparse.planes["weight"] * torch.inf), "part 'values': weight has a value"),
        (with_planes(sparse, slorb_left=sparse.planes["slorb_left"] * torch.nan), "slorb_left has a value"),
        (with_planes(sparse, weight=sparse.planes["weight"].half()), "plane 'weight'"),
        (
            with_planes(product, right_scale=product.planes["right_scale"] * torch.nan),
            "part 'right': scale has a value",
        ),
        (with_planes(product, right_weight=product.planes["right_weight"][:, :1]), "plane 'right_weight'"),
        (with_planes(product, delta_val=torch.zeros(1)), "does not have"),
    ]
    for packed, message in broken:
        with pytest.raises(FormatError, match=rf"model\.x: .*{message}"):
            layouts.check(packed, "model.x")
    three = nm.pack(random(2, 6), nm.mask_nm(random(2, 6), 1, 3), 1, 3)
    with pytest.raises(FormatError, match=r"within 0\.\.2"):  # a place of 2 bits may be 3
        layouts.check(with_planes(three, sparse_index=torch.full_like(three.planes["sparse_index"], 15)))


def test_impossible_schemes_are_refused() -> None:
    sparse, product = golden_sparse(), golden_low_rank()
    nested = {"left": product.scheme.to_dict()}
    impossible = [
        *(
            with_options(product, **change)
            for change in ({"rank": 0}, {"rank": 3}, {"rank": True}, {"left": 7}, nested)
        ),
        *(
            with_options(sparse, **change)
            for change in ({"n": 4}, {"m": 5}, {"slorb": -1}, {"slorb": 4}, {"values": {}})
        ),
        with_options(product, outliers=1),
        dataclasses.replace(product.scheme, bits=3),
        dataclasses.replace(sparse.scheme, group_size=4),
        with_options(sparse, values={**sparse.scheme.options["values"], "options": {"dtype": "int8"}}),
        with_options(sparse, values={**sparse.scheme.options["values"], "bits": 32}),
    ]
    for scheme in impossible:
        with pytest.raises(FormatError):
            layouts.plane_specs(scheme, product.shape if scheme.layout == "low_rank.v1" else sparse.shape)


def test_the_break_even_rank_is_the_last_that_saves() -> None:
    for rows, width in ((4, 12), (64, 64), (7, 300), (2, 2), (1, 9)):
        rank = low_rank.break_even((rows, width))
        assert rank * (rows + width) < rows * width <= (rank + 1) * (rows + width)


def test_a_dense_part_is_no_layout_of_a_linear() -> None:
    part = dense.pack(random(4, 8))
    assert torch.equal(layouts.unpack(part), random(4, 8))
    with pytest.raises(FormatError, match=r"model\.x: dense\.v1 is a layout of parts only"):
        layouts.check(part, "model.x")
    with pytest.raises(FormatError, match=r"model\.x: unknown layout 'dense\.v1'"):
        manifest.check_tensors({"model.x": {"scheme": part.scheme.to_dict(), "shape": [4, 8], "bias": False}})
    with pytest.raises(FormatError, match="float64"):
        dense.pack(random(4, 8).double())


@every
def test_the_real_planes_alone_are_differentiated(name: str) -> None:
    packed = MAKERS[name]()
    expanded, planes = layouts.expand(packed), layouts.continuous(packed)
    assert {key for key, plane in packed.planes.items() if plane.is_floating_point()} == planes.keys()
    floats = {key: plane.float().requires_grad_() for key, plane in planes.items()}
    assert torch.equal(layouts.assemble(expanded, floats), layouts.unpack(packed))
    direction = random(*packed.shape)
    (layouts.assemble(expanded, floats) * direction).sum().backward()
    for key, plane in floats.items():
        moved = {other: value.detach() for other, value in floats.items()} | {key: plane.detach() + 1}
        rise = ((layouts.assemble(expanded, moved) - layouts.unpack(packed)) * direction).sum()
        torch.testing.assert_close(plane.grad.sum(), rise, rtol=1e-4, atol=1e-4)


def test_large_products_are_made_in_slices() -> None:
    left, right = random(3000, 2), random(2, 3000, seed=1)
    weight = layouts.unpack(low_rank.pack(dense.pack(left), dense.pack(right)))
    assert torch.equal(weight, (left.double() @ right.double()).float())


def test_a_checkpoint_of_composite_linears_reads_back(tmp_path: Path) -> None:
    packed = {"a.product": golden_low_rank(), "a.sparse": golden_sparse()}
    writer = CheckpointWriter(tmp_path, shard_count=1)
    tensors = {
        name: {"scheme": one.scheme.to_dict(), "shape": list(one.shape), "bias": False} for name, one in packed.items()
    }
    records = [writer.write_shard(0, naming.plane_tensors(packed))]
    writer.finish(records=records, config={}, manifest={"tensors": tensors})
    checkpoint = open_checkpoint(tmp_path)
    for name, one in packed.items():
        found = checkpoint.packed(name)
        assert found.scheme == one.scheme
        assert all(torch.equal(plane, found.planes[key]) for key, plane in one.planes.items())
