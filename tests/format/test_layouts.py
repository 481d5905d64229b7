"""Layouts: golden bytes (never edited: a changed meaning is a new layout id), bit streams, and damaged planes."""

import pytest
import torch

from compress.errors import FormatError
from compress.format import layouts
from compress.format.layouts import additive, bits, float_group, int_group, spqr, super_block
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme


def _hex(plane: torch.Tensor) -> str:
    return bytes(plane.contiguous().view(torch.uint8).flatten().tolist()).hex()


@pytest.mark.parametrize("width", range(1, 17))
@pytest.mark.parametrize("elements", [1, 7, 10, 11, 32, 33, 100])
def test_bit_stream_is_little_endian_and_dense(width, elements):
    codes = torch.randint(0, 2**width, (3, elements), generator=torch.Generator().manual_seed(width))
    words = bits.pack_rows(codes, width)
    assert words.dtype == torch.int32 and words.shape == (3, bits.words_for(elements, width))
    for row, row_words in zip(codes.tolist(), words.tolist(), strict=True):
        stream = sum((word & 0xFFFFFFFF) << (32 * i) for i, word in enumerate(row_words))
        assert stream == sum(code << (j * width) for j, code in enumerate(row))
    assert torch.equal(bits.unpack_rows(words, width, elements), codes.to(bits.code_dtype(width)))
    flat = bits.unpack_flat(bits.pack_flat(codes, width), width, (3, elements))
    assert torch.equal(flat, codes.to(bits.code_dtype(width)))


def golden_int_group() -> PackedTensor:
    codes = torch.arange(3 * 12).reshape(3, 12) % 8
    scale = torch.tensor([[0.5, -0.0], [2.0, 1.0], [0.25, 3.0]], dtype=torch.float16)
    zero = torch.tensor([[0, 7], [3, 4], [5, 1]])
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[0, 11] = mask[2, 0] = True
    return int_group.pack(codes, scale, zero, bits=3, outlier_NK=mask, delta_NK=mask * -1.5)


def golden_spqr() -> PackedTensor:
    codes = torch.arange(3 * 10).reshape(3, 10) % 8
    stats = torch.tensor([[0, 7], [3, 1], [2, 5]])
    level = {name: torch.full((2, 2), 0.5 + i, dtype=torch.float16) for i, name in enumerate(spqr.SECOND_LEVEL)}
    mask = torch.zeros(3, 10, dtype=torch.bool)
    mask[1, 2] = mask[1, 9] = True
    perm = torch.tensor([9, 0, 8, 1, 7, 2, 6, 3, 5, 4])
    return spqr.pack(codes, stats, stats.flip(1), level, bits=3, stats_bits=3, stats_group=2, exponent=-3,
                     perm_K=perm, outlier_NK=mask, delta_NK=mask * 0.75)  # fmt: skip


def golden_additive() -> PackedTensor:
    codes = torch.arange(3 * 2 * 2).reshape(3, 2, 2) * 5 % 8
    codebooks = (torch.arange(2 * 8 * 3).reshape(2, 8, 3) - 20) / 8
    return additive.pack(codes, codebooks, torch.tensor([1.0, 0.5, -2.0], dtype=torch.float16))


def golden_float_group() -> PackedTensor:
    codes = torch.arange(2 * 16).reshape(2, 16) * 3 % 16
    scale = torch.tensor([[0x38, 0x40], [0x01, 0x7E]], dtype=torch.uint8)
    return float_group.pack(codes, scale, "e2m1", scale_dtype="e4m3", global_scale=torch.tensor([8.0]))


def golden_super_block() -> PackedTensor:
    codes = torch.arange(256).reshape(1, 256) * 7 // 5 % 4
    scale, minimum = torch.arange(16).reshape(1, 16), torch.arange(16).flip(0).reshape(1, 16)
    d, dmin = torch.tensor([[0.25]]).half(), torch.tensor([[-1.5]]).half()
    return super_block.pack(codes, scale, minimum, d, dmin, bits=2)


GOLDEN = {
    "int_group": {
        "weight": "88c6fa8806000000ac8f68ac0f00000088c6fa8806000000",
        "scale": "003800800040003c00340042",
        "zero_point": "5801000067000000",
        "delta_rowptr": "00000000010000000100000002000000",
        "delta_col": "0b000000",
        "delta_val": "00be00be",
    },
    "spqr": {
        "weight": "88c6fa081aeb231aac8f682c",
        "scale_code": "f8a20200",
        "zero_code": "47560100",
        "scale_step": "0038003800380038",
        "scale_min": "003e003e003e003e",
        "zero_step": "0041004100410041",
        "zero_min": "0043004300430043",
        "perm": "0900000008000100070002000600030005000400",
        "delta_rowptr": "00000000000000000200000002000000",
        "delta_col": "02000900",
        "delta_val": "003a003a",
    },
    "additive": {
        "weight": "a80e00008c070000a80e0000",
        "codebooks": "00c1c0c080c040c000c080bf00bf80be00be80bd00bd80bc00bc00bb00ba00b900b800b600b400b00000003000340036"
        "00380039003a003b003c803c003d803d003e803e003f803f004040408040c040004140418041c041004240428042c042",
        "scale": "003c003800c0",
    },
    "float_group": {
        "weight": "3096fc52b81e74da3096fc52b81e74da",
        "scale": "3840017e",
        "global_scale": "00000041",
    },
    "super_block": {
        "weight": "244de3789e244de3789e244de3789e244de3789e244de3789e244de3789e244de3789e244de3789e"
        "244de3789e244de3789e244de3789e244de3789e244de378",
        "scale": "000102030405060708090a0b0c0d0e0f",
        "minimum": "0f0e0d0c0b0a09080706050403020100",
        "d": "0034",
        "dmin": "00be",
    },
}


MAKERS = {"int_group": golden_int_group, "spqr": golden_spqr, "additive": golden_additive}
MAKERS |= {"float_group": golden_float_group, "super_block": golden_super_block}


@pytest.mark.parametrize("name,make", MAKERS.items(), ids=list(MAKERS))
def test_golden_bytes(name, make):
    packed = make()
    layouts.check(packed)
    assert {plane: _hex(tensor) for plane, tensor in packed.planes.items()} == GOLDEN[name]


def test_meaning_of_int_group():
    weight = layouts.unpack(golden_int_group())
    assert weight[0, 4].item() == 0.5 * (4 - 0) and weight[1, 0].item() == 2.0 * (12 % 8 - 3)
    assert weight[2, 0].item() == 0.25 * (24 % 8 - 5) - 1.5 and weight[0, 11].item() == -0.0 * (11 % 8 - 7) - 1.5


def test_meaning_of_float_group():
    weight = layouts.unpack(golden_float_group())
    assert weight[0, 1].item() == 1.5 * (1 / 8)  # code 3, scale 0x38
    assert weight[1, 9].item() == -1.5 * (448 / 8) and weight[1, 1].item() == 1.5 * 2.0**-12
    eight = float_group.pack(torch.tensor([[0x7E, 0x81, 0x38]]), torch.tensor([[0.5]]), "e4m3")
    assert layouts.unpack(eight).tolist() == [[224.0, -(2.0**-10), 0.5]]
    powers = float_group.pack(
        torch.full((1, 32), 15), torch.tensor([[130]], dtype=torch.uint8), "e2m1", scale_dtype="e8m0"
    )
    assert layouts.unpack(powers).unique().tolist() == [-48.0]


def test_meaning_of_super_block():
    weight = layouts.unpack(golden_super_block())
    assert weight[0, 0].item() == 1.5 * 15 and weight[0, 17].item() == (17 * 7 // 5 % 4) * (0.25 * 1) + 1.5 * 14
    codes, scale = torch.tensor([[0, 7] * 128]), torch.full((1, 16), -32)
    three = super_block.pack(codes, scale, None, torch.tensor([[0.5]]), None, bits=3)
    assert layouts.unpack(three)[0, :2].tolist() == [64.0, -48.0]
    three.planes["scale"][0, 3] = 32
    with pytest.raises(FormatError, match="scale goes from -32 to 32"):
        layouts.check(three)


def test_meaning_of_additive():
    packed = golden_additive()
    weight = layouts.unpack(packed)
    codes = torch.arange(3 * 2 * 2).reshape(3, 2, 2) * 5 % 8
    books = packed.planes["codebooks"].float()
    for row, group, column in ((0, 0, 0), (1, 1, 2), (2, 0, 1)):
        first, second = codes[row, group].tolist()
        expected = packed.planes["scale"][row].float() * (books[0, first, column] + books[1, second, column])
        assert weight[row, 3 * group + column] == expected


def test_meaning_of_spqr():
    weight = layouts.unpack(golden_spqr())
    # row 1, stored column 0 is input feature 9: scale (1.5 + 0.5·3)/8, zero 3.5 + 2.5·1, code 10 % 8 = 2, delta 0.75/8
    assert weight[1, 9].item() == pytest.approx((1.5 + 0.5 * 3) / 8 * (2 - (3.5 + 2.5 * 1)) + 0.75 / 8)
    # row 2 (second run), stored column 9 is input feature 4, group 1: scale code 5, zero code 2
    assert weight[2, 4].item() == pytest.approx((1.5 + 0.5 * 5) / 8 * (29 % 8 - (3.5 + 2.5 * 2)))


@pytest.mark.parametrize("make", [golden_int_group, golden_spqr], ids=["int_group", "spqr"])
def test_damage_is_refused(make):
    packed = make()

    def damaged(**planes):
        return PackedTensor(packed.shape, packed.scheme, packed.planes | planes)

    rowptr, col = packed.planes["delta_rowptr"], packed.planes["delta_col"]
    bad_rowptr, bad_col = rowptr.clone(), col.clone()
    bad_rowptr[1] = 2**31 - 1
    bad_col[0] = 60000
    for name, broken in (
        ("rowptr", damaged(delta_rowptr=bad_rowptr)),
        ("delta_col", damaged(delta_col=bad_col)),
        ("delta_val", damaged(delta_val=packed.planes["delta_val"] * float("inf"))),
        ("'weight'", damaged(weight=packed.planes["weight"][:, :-1])),
        ("'weight'", damaged(weight=packed.planes["weight"].to(torch.int64))),
        ("does not have", damaged(extra=rowptr)),
    ):
        with pytest.raises(FormatError, match=rf"model\.x: .*{name}"):
            layouts.check(broken, "model.x")
    with pytest.raises(FormatError, match="planes missing: weight"):
        layouts.check(
            PackedTensor(packed.shape, packed.scheme, {k: v for k, v in packed.planes.items() if k != "weight"})
        )


def test_damaged_codebooks_are_refused():
    packed = golden_additive()
    for name in ("codebooks", "scale"):
        broken = packed.planes | {name: packed.planes[name] * float("nan")}
        with pytest.raises(FormatError, match=rf"model\.x: .*{name} has a value that is not finite"):
            layouts.check(PackedTensor(packed.shape, packed.scheme, broken), "model.x")
    with pytest.raises(FormatError, match=r"model\.x: .*'weight'"):
        layouts.check(PackedTensor((3, 600), packed.scheme, packed.planes), "model.x")
    for change in ({"codebooks": 0}, {"codebooks": True}, {"codebooks": 65}, {"outliers": 1}, {"scale_dtype": "x"}):
        scheme = Scheme(layout="additive.v1", bits=3, group_size=3, options={**packed.scheme.options, **change})
        with pytest.raises(FormatError):
            layouts.plane_specs(scheme, packed.shape)
    with pytest.raises(FormatError):
        layouts.plane_specs(Scheme(layout="additive.v1", bits=17, group_size=3, options=packed.scheme.options), (3, 6))


def test_permutation_must_be_one():
    packed = golden_spqr()
    perm = packed.planes["perm"].clone()
    perm[0] = 0
    with pytest.raises(FormatError, match="perm is not a permutation"):
        layouts.check(PackedTensor(packed.shape, packed.scheme, packed.planes | {"perm": perm}))


IMPOSSIBLE = [
    {"bits": 0}, {"bits": 9}, {"group_size": 0}, {"group_size": 7}, {"layout": "int_group.v9"}, {"options": {}},
]  # fmt: skip


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=str)
def test_impossible_schemes_are_refused(change):
    for packed in (golden_int_group(), golden_spqr()):
        scheme = Scheme.from_dict(packed.scheme.to_dict() | change)
        with pytest.raises(FormatError):
            layouts.plane_specs(scheme, packed.shape)


def test_scheme_round_trip_and_bad_fields():
    scheme = golden_spqr().scheme
    assert Scheme.from_dict(scheme.to_dict()) == scheme
    plain = {"layout": "a", "bits": 3, "group_size": 1}
    many = ({"options": {"outliers": None}}, {"options": 3}, {"layout": 3}, {"bits": True})
    for data in ({}, [], *(plain | wrong for wrong in many)):
        with pytest.raises(FormatError):
            Scheme.from_dict(data)


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_the_real_planes_alone_are_differentiated(make):
    """`assemble` needs no other plane, gives the shipped values exactly, and its gradient is that of the values."""
    packed = make()
    expanded, planes = layouts.expand(packed), layouts.continuous(packed)
    assert {name for name, plane in packed.planes.items() if plane.is_floating_point()} == planes.keys()
    assert torch.equal(layouts.assemble(expanded, planes), layouts.unpack(packed))
    floats = {name: plane.float().requires_grad_() for name, plane in planes.items()}
    assert torch.equal(layouts.assemble(expanded, floats), layouts.unpack(packed))
    direction = torch.randn(packed.shape, generator=torch.Generator().manual_seed(0))
    (layouts.assemble(expanded, floats) * direction).sum().backward()
    for name, plane in floats.items():
        # every layout is linear in each plane alone: a finite difference of any width is the derivative; a global scale
        # divides
        width = 2.0**-10 if name == "global_scale" else 1.0
        moved = {other: value.detach() for other, value in floats.items()} | {name: plane.detach() + width}
        rise = ((layouts.assemble(expanded, moved) - layouts.unpack(packed)) * direction).sum() / width
        if name == "global_scale":
            torch.testing.assert_close(floats[name].grad.sum(), rise, rtol=1e-3, atol=1e-3)
            continue
        torch.testing.assert_close(floats[name].grad.sum(), rise, rtol=1e-4, atol=1e-4)
