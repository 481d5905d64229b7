"""The code of a linear in a few characters."""

from __future__ import annotations

import pytest

from compress.format.scheme import Scheme
from compress.report.table import layers

INTEGERS, FLOATS = {"symmetric": True}, {"element": "e2m1", "scale_dtype": "e4m3"}


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (Scheme(layout="int_group.v1", bits=3, group_size=16, options=INTEGERS), "3b g16"),
        (
            Scheme(layout="int_group.v1", bits=8, group_size=64, options=INTEGERS | {"activations": "int8"}),
            "8b g64, inputs int8",
        ),
        (Scheme(layout="float_group.v1", bits=4, group_size=16, options=FLOATS), "e2m1 g16"),
    ],
)
def test_codes(scheme: Scheme, expected: str) -> None:
    assert layers._code(scheme) == expected
