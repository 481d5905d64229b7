"""FineQuant: which group size it chooses."""

import math

import pytest
import torch

from compress.errors import MethodError
from compress.format import layouts
from compress.methods import finequant, rtn
from tests.support.correlated import correlated_layer, output_error


def gaussian(rows=64, width=1024, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 0.02


def with_outliers(rows=64, width=1024):
    w_NK = gaussian(rows, width)
    w_NK[torch.arange(rows), torch.arange(rows) * 7 % width] = 20 * 0.02
    return w_NK


def chosen(w_NK, **options):
    return finequant.solve(w_NK, None, finequant.Config(**options)).scheme.group_size


@pytest.mark.parametrize("symmetric", [True, False])
def test_gaussian_rows_stay_whole_and_outliers_get_small_groups(symmetric):
    assert chosen(gaussian(), symmetric=symmetric) == 1024
    assert chosen(with_outliers(), symmetric=symmetric) == 32
    heavy_tails = torch.distributions.StudentT(3.0)
    torch.manual_seed(0)
    assert chosen(heavy_tails.sample((64, 1024)), symmetric=symmetric) < 1024


def test_one_outlying_row_takes_the_finest_size():
    w_NK = gaussian()
    w_NK[5] *= 50
    assert chosen(w_NK) == 32
    assert chosen(w_NK, outlier_guard=math.inf) == 1024
    assert chosen(w_NK, smallest_group=64) == 64


def test_alpha_is_the_share_that_a_halving_must_reach():
    assert chosen(with_outliers(), alpha=0.3) == 1024
    assert chosen(gaussian(), alpha=0.97) == 32


def test_sizes_are_those_that_engines_serve_unless_asked_otherwise():
    assert chosen(with_outliers(width=96)) == 32
    assert chosen(with_outliers(width=80)) == 80, "none of 128, 64, 32 divides 80"
    assert chosen(with_outliers(width=80), served_sizes=False, smallest_group=8) in (10, 20, 40)
    assert chosen(with_outliers(width=77), served_sizes=False) == 77


def test_fused_matrices_share_the_finest_size():
    config = finequant.Config()
    decided = finequant.shared([gaussian(), with_outliers(), gaussian(seed=1)], config)
    assert decided.group_size == 32
    assert finequant.solve(gaussian(), None, decided).scheme.group_size == 32
    assert finequant.shared([gaussian()], config).group_size == 1024
    fixed = finequant.Config(group_size=64)
    assert finequant.shared([with_outliers()], fixed) == fixed


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_beats_round_to_nearest_per_channel_and_spends_less_than_small_groups_everywhere(bits):
    w_NK, x_TK = correlated_layer()
    fine = finequant.solve(w_NK, None, finequant.Config(bits=bits))
    channel = rtn.solve(w_NK, None, rtn.Config(bits=bits, group_size=-1))
    assert output_error(w_NK, x_TK, fine) < 0.6 * output_error(w_NK, x_TK, channel)
    assert finequant.solve(gaussian(), None, finequant.Config(bits=bits)).bits_per_weight < bits + 0.02


def test_weights_on_the_grid_are_exact():
    code_NK = torch.randint(-7, 8, (20, 128), generator=torch.Generator().manual_seed(0))
    code_NK[:, ::32] = 7
    w_NK = code_NK * 0.25
    assert torch.equal(layouts.unpack(finequant.solve(w_NK, None, finequant.Config(bits=4))), w_NK)


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("rows,width", [(1, 1), (1, 8), (7, 24), (33, 40), (3, 300)])
def test_ragged_and_tiny_shapes(bits, rows, width):
    w_NK, _ = correlated_layer(rows, width, 8)
    for served in (True, False):
        packed = finequant.solve(w_NK, None, finequant.Config(bits=bits, served_sizes=served, symmetric=served))
        layouts.check(packed)
        assert layouts.unpack(packed).isfinite().all()


def test_same_bytes_twice_and_inputs_untouched():
    w_NK = with_outliers()
    before = w_NK.clone()
    first, second = (finequant.solve(w_NK, None, finequant.Config()) for _ in range(2))
    assert all(torch.equal(first.planes[name], second.planes[name]) for name in first.planes)
    assert torch.equal(w_NK, before)


def test_bad_input_is_refused():
    for options in (
        {"bits": 1},
        {"smallest_group": 4},
        {"alpha": 1.0},
        {"outlier_guard": 0.5},
    ):
        with pytest.raises(MethodError, match="Allowed"):
            finequant.Config(**options)
    with pytest.raises(MethodError, match="does not divide in_features=96"):
        finequant.solve(correlated_layer()[0], None, finequant.Config(group_size=10))
    w_NK = torch.ones(2, 8)
    w_NK[1, 3] = torch.inf
    with pytest.raises(MethodError, match="1 of 16 weights are NaN"):
        finequant.solve(w_NK, None, finequant.Config())
