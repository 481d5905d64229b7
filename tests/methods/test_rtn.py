"""Round to nearest."""

import pytest
import torch

from compress.errors import MethodError
from compress.format import layouts
from compress.methods import rtn


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape,group", [((5, 24), 8), ((1, 7), None), ((33, 40), 40)])
def test_every_weight_is_within_half_a_step(bits, symmetric, shape, group):
    w_NK = torch.randn(*shape, generator=torch.Generator().manual_seed(bits))
    packed = rtn.solve(w_NK, None, rtn.Config(bits=bits, group_size=group, symmetric=symmetric))
    layouts.check(packed)
    step = packed.planes["scale"].float().repeat_interleave(packed.scheme.group_size, 1)
    # float16 rounding of the scale moves the ends of the range by up to half a unit in the last place
    slack = 2 ** (bits - 1) * 2.0**-10
    if symmetric:
        slack += 0.5
    assert ((layouts.unpack(packed) - w_NK).abs() <= step * (0.5 + slack + 1e-6)).all()


def test_weights_on_the_grid_are_exact():
    scale = torch.full((4, 3), 0.25)
    w_NK = (torch.randint(0, 16, (4, 3, 8), generator=torch.Generator().manual_seed(0)).float() - 7) * scale[..., None]
    w_NK[..., 0], w_NK[..., 1] = -7 * 0.25, 8 * 0.25
    w_NK = w_NK.reshape(4, 24)
    assert torch.equal(layouts.unpack(rtn.solve(w_NK, None, rtn.Config(bits=4, group_size=8, symmetric=False))), w_NK)


def test_zeros_stay_zero_and_input_is_untouched():
    w_NK = torch.randn(8, 16, generator=torch.Generator().manual_seed(1)) + 3
    w_NK[:, 5] = 0
    before = w_NK.clone()
    packed = rtn.solve(w_NK, None, rtn.Config(bits=3, group_size=16, symmetric=False))
    assert torch.equal(w_NK, before)
    assert (layouts.unpack(packed)[:, 5] == 0).all()
    assert (layouts.unpack(rtn.solve(torch.zeros(4, 8), None, rtn.Config())) == 0).all()


@pytest.mark.parametrize("magnitude", [1e-20, 1e-6, 1e8])
def test_any_magnitude_of_weights(magnitude):
    w_NK = torch.randn(8, 32, generator=torch.Generator().manual_seed(2)) * magnitude
    packed = rtn.solve(w_NK, None, rtn.Config(bits=8))
    layouts.check(packed)
    assert (layouts.unpack(packed) - w_NK).norm() < 0.01 * w_NK.norm()


def test_a_group_that_does_not_divide_names_the_sizes_that_do():
    with pytest.raises(MethodError, match=r"group_size=7 does not divide in_features=24.*8, 12, 24"):
        rtn.solve(torch.randn(2, 24), None, rtn.Config(group_size=7))


def test_non_finite_weights_are_refused():
    w_NK = torch.ones(2, 8)
    w_NK[1, 3] = torch.nan
    with pytest.raises(MethodError, match="1 of 16 weights are NaN"):
        rtn.solve(w_NK, None, rtn.Config())


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range(bits):
    with pytest.raises(MethodError, match=r"Allowed: 2 to 8"):
        rtn.Config(bits=bits)
