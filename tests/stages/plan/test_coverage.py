"""The account."""

import pytest

from compress.errors import CoverageError, RecipeError
from compress.stages.plan.coverage import account, select

LINEARS = {"m.0.q": (4, 4), "m.0.down": (4, 8), "m.1.q": (4, 4), "m.1.down": (4, 8)}
DENSE = {"m.embed_tokens.weight": (10, 4), "m.0.norm.weight": (4,), "m.0.q.bias": (4,), "m.0.mlp.gate.weight": (2, 4)}


def test_every_parameter_is_counted_once():
    coverage = account(LINEARS, DENSE, ("m.1.q",), floor=0.5)
    assert coverage.total == 96 + 40 + 4 + 4 + 8
    assert coverage.compressed == 80 and coverage.share == pytest.approx(80 / 96)
    assert coverage.left == {"embedding": 40, "norm": 4, "bias": 4, "router": 8, "skipped linears": 16}
    assert coverage.compressed + sum(coverage.left.values()) == coverage.total


def test_below_the_floor_is_an_error():
    with pytest.raises(CoverageError, match=r"only 33\.3% .*Allowed: 90% or more"):
        account(LINEARS, DENSE, select(LINEARS, ["*.down"]), floor=0.9)


def test_globs():
    assert select(LINEARS, ["m.1.*"]) == ("m.1.q", "m.1.down")
    with pytest.raises(RecipeError, match=r"'\*\.dwon' matches no linear"):
        select(LINEARS, ["*.dwon"])
