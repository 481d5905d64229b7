"""`scale_dtype` of the integer methods: scales are stored as asked, and codes are chosen with what is stored."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format import layouts
from compress.methods import easyquant, finequant, gptq, rtn

METHODS: list[Any] = [rtn, finequant, gptq, easyquant]


def weight() -> torch.Tensor:
    return torch.randn(32, 64, generator=torch.Generator().manual_seed(5))


def stats() -> LayerStats:
    x_TK = torch.randn(256, 64, generator=torch.Generator().manual_seed(6))
    return LayerStats(len(x_TK), x_TK.T @ x_TK)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__.rpartition(".")[2])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_scales_are_stored_as_asked(method: Any, symmetric: bool, dtype: str) -> None:
    options: dict[str, Any] = {"bits": 3, "group_size": 16, "symmetric": symmetric}
    made = method.solve(weight(), stats(), method.Config(**options, scale_dtype=dtype))
    chosen = method.solve(weight(), stats(), method.Config(**options))
    layouts.check(made)
    assert made.planes["scale"].dtype == getattr(torch, dtype) and made.scheme.options["scale_dtype"] == dtype
    assert chosen.planes["scale"].dtype == torch.float16
    if dtype == "float16":
        assert all(torch.equal(plane, chosen.planes[name]) for name, plane in made.planes.items())
    lost, least = ((layouts.unpack(each) - weight()).square().mean() for each in (made, chosen))
    assert lost <= 1.02 * least  # a rounded scale costs next to nothing, if the codes are chosen with it


def test_codes_are_the_nearest_to_the_stored_scale() -> None:
    made = rtn.solve(weight(), None, rtn.Config(bits=4, group_size=16, scale_dtype="bfloat16"))
    step_NK = made.planes["scale"].float().repeat_interleave(16, 1)
    assert ((layouts.unpack(made) - weight()).abs() <= 0.5001 * step_NK + 2**-8 * weight().abs()).all()


@pytest.mark.parametrize("method", METHODS)
def test_unknown_and_overflowing_dtypes_are_refused(method: Any) -> None:
    with pytest.raises(MethodError, match="scale_dtype='fp16'"):
        method.Config(scale_dtype="fp16")
    with pytest.raises(MethodError, match="does not fit into"):
        rtn.solve(weight() * 1e6, None, rtn.Config(scale_dtype="float16"))
