"""The test of the tests: kernels with seeded bugs must be refused by what judges the right ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from compress.kernels import native
from compress.kernels.native import block as blocks
from compress.kernels.native import loader
from tests.support.kernel_weights import Weight, bilevel, excess, integers, kept, vectors

pytestmark = pytest.mark.skipif(loader.unavailable() is not None, reason=str(loader.unavailable()))
SHAPE = (48, 256)
FORMS = {
    "int4": partial(integers, bits=4),
    "int4 zero": partial(integers, bits=4, symmetric=False),
    "int3 delta": partial(integers, bits=3, share=0.02),
    "spqr": partial(bilevel, share=0.02),
    "additive": partial(vectors),
    "2:4": partial(kept),
}


def section(block: torch.Tensor, name: str, dtype: torch.dtype) -> torch.Tensor:
    """The part of a block that bears `name`, up to the next one, as a view in which bugs can be put."""
    header = block[:256].view(torch.int64).tolist()
    names = dict(zip(blocks._SECTIONS, header[len(blocks._FIELDS) :], strict=False))
    start = names[name]
    assert start, f"no section {name}"
    return block[start : min([end for end in names.values() if end > start] + [block.numel()])].view(dtype)


def drop_group(block: torch.Tensor) -> None:
    """The columns of one group count nothing."""
    section(block, "scale", torch.float16)[:16] = 0


def double(block: torch.Tensor) -> None:
    """One row is twice as large."""
    section(block, "scale", torch.float16).view(-1, 16)[:, 5] *= 2


def swap_nibbles(block: torch.Tensor) -> None:
    """Neighbouring codes change places."""
    codes = section(block, "words", torch.uint8)
    codes.copy_(codes << 4 | codes >> 4)


def ignore_zero(block: torch.Tensor) -> None:
    """Zero points are taken for the middle code."""
    section(block, "zero", torch.uint8).fill_(8)


def zero_row(block: torch.Tensor) -> None:
    """The codes of one row are cleared."""
    section(block, "words", torch.int32).view(-1, 16)[:, 3] = 0


def shift_rows(block: torch.Tensor) -> None:
    """Rows of a tile are off by one."""
    words = section(block, "words", torch.int32).view(-1, 16)
    words.copy_(words.roll(1, dims=1))


def lose_entry(block: torch.Tensor) -> None:
    """The largest entry of the sparse part is lost."""
    values = section(block, "val", torch.float16)
    values[values.abs().argmax()] = 0


def misplace_entry(block: torch.Tensor) -> None:
    """The largest entry of the sparse part stands one column off."""
    at = section(block, "val", torch.float16).abs().argmax()
    section(block, "col", torch.int16)[at] ^= 1


def wrong_step(block: torch.Tensor) -> None:
    """One step of the second level of statistics is a tenth too large."""
    section(block, "steps", torch.float32)[0] *= 1.1


def swap_statistics(block: torch.Tensor) -> None:
    """The codes of scale and zero point change places."""
    codes = section(block, "zero", torch.uint8)
    codes.copy_(codes << 4 | codes >> 4)


def lose_order(block: torch.Tensor) -> None:
    """Two columns stand in each other's place."""
    order = section(block, "perm", torch.int16)
    order[:2] = order[:2].flip(0)


def wrong_code(block: torch.Tensor) -> None:
    """One vector of a codebook is taken for its neighbour."""
    section(block, "words", torch.uint8)[0] ^= 1


def wrong_place(block: torch.Tensor) -> None:
    """Kept weights stand at other inputs of their group."""
    section(block, "index", torch.int32)[0] ^= 3


BUGS: dict[str, tuple[Callable[[torch.Tensor], None], ...]] = {
    "int4": (drop_group, double, swap_nibbles, zero_row, shift_rows),
    "int4 zero": (drop_group, double, swap_nibbles, ignore_zero, zero_row),
    "int3 delta": (drop_group, zero_row, lose_entry, misplace_entry),
    "spqr": (wrong_step, swap_statistics, lose_order, zero_row, shift_rows, lose_entry, misplace_entry),
    "additive": (wrong_code, shift_rows),
    "2:4": (wrong_place,),
}
CASES = [(form, bug) for form, bugs in BUGS.items() for bug in bugs]


def inputs(tokens: int, positive: bool) -> torch.Tensor:
    x = torch.randn(tokens, SHAPE[1], generator=torch.Generator().manual_seed(tokens))
    return x.abs() if positive else x


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [1, 3, 20])
@pytest.mark.parametrize("positive", [False, True], ids=["signed", "positive"])
def test_the_right_kernel_passes(form: str, tokens: int, positive: bool) -> None:
    weight: Weight = FORMS[form](SHAPE)
    x = inputs(tokens, positive)
    assert excess(native.linear(x, native.prepare(weight.packed, torch.float32), None), x, weight) <= 1


@pytest.mark.parametrize(("form", "bug"), CASES, ids=[f"{form}-{bug.__name__}" for form, bug in CASES])
@pytest.mark.parametrize("tokens", [1, 3, 20])
@pytest.mark.parametrize("positive", [False, True], ids=["signed", "positive"])
def test_a_wrong_kernel_is_refused(form: str, bug: Callable[[torch.Tensor], None], tokens: int, positive: bool) -> None:
    weight: Weight = FORMS[form](SHAPE)
    x, operands = inputs(tokens, positive), native.prepare(weight.packed, torch.float32)
    bug(operands[1])
    assert excess(native.linear(x, operands, None), x, weight) > 1


def test_an_output_that_was_not_written_is_refused() -> None:
    weight = FORMS["int4"](SHAPE)
    x = inputs(2, False)
    found = native.linear(x, native.prepare(weight.packed, torch.float32), None)
    found[1, 7] = float("nan")
    assert excess(found, x, weight) > 1
