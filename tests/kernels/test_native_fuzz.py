"""Corrupt planes: refused, or decoded to what `unpack` makes of them. `make sanitize` sees reads that leave a plane."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch

from compress.errors import FormatError
from compress.format import layouts
from compress.format.packed import PackedTensor
from compress.format.scheme import Scheme
from compress.kernels import native
from compress.kernels.native import loader
from tests.support.kernel_weights import Weight, bilevel, factors, integers, kept, vectors

pytestmark = pytest.mark.skipif(loader.unavailable() is not None, reason=str(loader.unavailable()))
SETS = list(loader.units()) if loader.unavailable() is None else ["scalar"]
FORMS: list[Callable[..., Weight]] = [
    partial(integers, bits=4, symmetric=False),
    partial(integers, bits=3, group=16, share=0.05),
    partial(bilevel, share=0.05),
    partial(bilevel, bits=2, stats_group=5, permuted=False),
    partial(vectors),
    partial(vectors, books=1, bits=12),
    partial(vectors, books=3, bits=3, group=4),
    partial(kept),
    partial(kept, values=partial(integers, bits=4, group=16, share=0.05)),
    partial(factors, rank=16, part=partial(integers, bits=4, group=16)),
]
OPTIONS: dict[type, tuple[object, ...]] = {
    int: (-(1 << 40), -300, -1, 0, 1, 2, 3, 5, 7, 16, 31, 300, 1 << 16, 1 << 40),
    bool: (False, True),
    str: ("float32", "float16", "bfloat16", "float64"),
}


def bytes_of(plane: torch.Tensor) -> torch.Tensor:
    return plane.view(-1).view(torch.uint8)


def scramble(packed: PackedTensor, dice: random.Random) -> None:
    """A few bytes of one plane are any."""
    plane = bytes_of(packed.planes[dice.choice(list(packed.planes))])
    for _ in range(dice.choice((1, 1, 4, 64))):
        plane[dice.randrange(plane.numel())] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))


def fill(packed: PackedTensor, dice: random.Random) -> None:
    """A whole plane is noise, or all ones."""
    plane = bytes_of(packed.planes[dice.choice(list(packed.planes))])
    if dice.random() < 0.5:
        plane.fill_(0xFF)
    else:
        plane.random_(generator=torch.Generator().manual_seed(dice.randrange(1 << 30)))


def resize(packed: PackedTensor, dice: random.Random) -> None:
    """A plane is cut, longer, of another type, of another shape, or missing."""
    name = dice.choice(list(packed.planes))
    plane = packed.planes[name]
    changes: list[Callable[[], torch.Tensor]] = [
        lambda: plane[:-1].contiguous(),
        lambda: torch.cat([plane.view(-1), plane.view(-1)]),
        lambda: plane.unsqueeze(0),
        lambda: bytes_of(plane),
        lambda: plane.new_zeros(0),
    ]
    if dice.random() < 0.2:
        del packed.planes[name]
    else:
        packed.planes[name] = dice.choice(changes)()


def relabel(packed: PackedTensor, dice: random.Random) -> PackedTensor:
    """The scheme or the shape says something else."""
    data = copy.deepcopy(packed.scheme.to_dict())
    rows, columns = packed.shape
    owners = [data["options"], *(value["options"] for value in data["options"].values() if isinstance(value, dict))]
    match dice.randrange(3):
        case 0:
            change, wider = dice.choice((-32, -16, -1, 1, 16, 1 << 20)), dice.random() < 0.5
            rows, columns = max(1, rows + change * (not wider)), max(1, columns + change * wider)
        case 1:
            data[dice.choice(("bits", "group_size"))] = dice.choice((1, 2, 3, 5, 8, 9, 16, 17, 32, 33))
        case _:
            owner = dice.choice(owners)
            if names := [name for name, value in owner.items() if type(value) in OPTIONS]:
                name = dice.choice(names)
                owner[name] = dice.choice(OPTIONS[type(owner[name])])
    return PackedTensor((rows, columns), Scheme.from_dict(data), packed.planes)


def corrupt(packed: PackedTensor, dice: random.Random) -> PackedTensor:
    change = dice.choice((scramble, scramble, fill, resize, relabel))
    return change(packed, dice) or packed


def attempts(count: int, seed: int) -> Iterator[tuple[PackedTensor, random.Random]]:
    dice = random.Random(seed)
    for _ in range(count):
        weight = dice.choice(FORMS)((dice.choice((20, 33, 48)), 96), seed=dice.randrange(100)).packed
        planes = {name: plane.clone() for name, plane in weight.planes.items()}
        yield PackedTensor(weight.shape, weight.scheme, planes), dice


def run(count: int, seed: int) -> tuple[int, int]:
    """Returns how many corrupt tensors were refused and how many decoded; those must decode to what they mean."""
    refused = decoded = 0
    for packed, dice in attempts(count, seed):
        try:
            broken = corrupt(packed, dice)
            operands = native.prepare(broken, torch.float32)
        except FormatError:
            refused += 1
            continue
        for name in (dice.choice(SETS), "scalar"):  # sanitizers do not see into gathers of other sets
            with loader.forced(name):
                found = native.decode(operands)
                torch.testing.assert_close(found, layouts.unpack(broken), rtol=0, atol=0, equal_nan=True)
                for tokens in (1, 3):
                    found = native.linear(torch.randn(tokens, broken.shape[1]), operands, None)
                    assert found.shape == (tokens, broken.shape[0])
        decoded += 1
    return refused, decoded


def test_corrupt_planes() -> None:
    refused, decoded = run(200, seed=1)
    assert refused > 50 and decoded > 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_corrupt_planes(seed: int) -> None:
    refused, decoded = run(1500, seed)
    assert refused > 250 and decoded > 250
