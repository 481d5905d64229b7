"""Group sizes: given, usual, or the whole row."""

from __future__ import annotations

import pytest

from compress.errors import MethodError
from compress.numerics.grid import divisor, group_width


@pytest.mark.parametrize(("width", "size"), [(4096, 128), (576, 64), (1536, 128), (96, 32), (48, 16), (36, 36)])
def test_without_a_size_the_largest_usual_one_that_divides_the_width_is_taken(width: int, size: int) -> None:
    assert group_width(width, None) == size


def test_minus_one_is_the_whole_row() -> None:
    assert group_width(576, -1) == 576


@pytest.mark.parametrize("size", [128, 0, -2])
def test_a_size_that_does_not_divide_the_width_is_refused_with_those_that_do(size: int) -> None:
    with pytest.raises(MethodError, match=rf"group_size={size} does not divide in_features=576\. Allowed: .*64.*576"):
        group_width(576, size)
    with pytest.raises(MethodError, match="does not divide"):
        divisor(576, size)
