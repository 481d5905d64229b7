"""GPTQ."""

import math

import pytest
import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format import layouts
from compress.methods import gptq, rtn
from compress.numerics import sweep
from tests.support.correlated import correlated_layer, output_error, statistics


@pytest.mark.parametrize("group", [None, 16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_beats_round_to_nearest_at_equal_bits(bits, symmetric, group):
    w_NK, x_TK = correlated_layer()
    options = {"bits": bits, "symmetric": symmetric, "group_size": group}
    packed = gptq.solve(w_NK, statistics(x_TK), gptq.Config(**options))
    nearest = rtn.solve(w_NK, None, rtn.Config(**options))
    assert packed.bits_per_weight == nearest.bits_per_weight
    assert output_error(w_NK, x_TK, packed) < 0.5 * output_error(w_NK, x_TK, nearest)


@pytest.mark.parametrize("without", ["act_order", "search"])
@pytest.mark.parametrize("group", [None, 16])
def test_each_part_pays(without, group):
    w_NK, x_TK = correlated_layer()
    stats = statistics(x_TK)
    whole = gptq.solve(w_NK, stats, gptq.Config(bits=3, group_size=group))
    less = gptq.solve(w_NK, stats, gptq.Config(bits=3, group_size=group, **{without: False}))
    assert output_error(w_NK, x_TK, whole) < output_error(w_NK, x_TK, less)


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_is_the_textbook_loop(act_order, symmetric):
    """Column by column with the whole update at once, in float64, ranges from the extremes."""
    w_NK, x_TK = correlated_layer(12, 32)
    stats = statistics(x_TK)
    config = gptq.Config(bits=4, symmetric=symmetric, act_order=act_order, search=False)
    restored_NK = layouts.unpack(gptq.solve(w_NK, stats, config)).double()
    order_K = torch.arange(32) if not act_order else stats.gram_KK.diagonal().argsort(descending=True, stable=True)
    gram_KK = stats.gram_KK.double()[order_K][:, order_K]
    gram_KK += 0.01 * gram_KK.diagonal().mean() * torch.eye(32)
    upper_KK = torch.linalg.cholesky(torch.linalg.inv(gram_KK), upper=True)
    grid = gptq.solve(w_NK, LayerStats.empty(32), config)  # its ranges are those of the untouched weights
    scale_N1 = grid.planes["scale"].double()
    work_NK = w_NK.double()[:, order_K]
    zero_N1 = torch.full((12, 1), 8.0).double()
    if not symmetric:
        zero_N1 = (-w_NK.amin(1, keepdim=True).clamp_max(0).double() / scale_N1).round().clamp(0, 15)
    value_NK = torch.empty_like(work_NK)
    for k in range(32):
        code_N1 = (work_NK[:, k : k + 1] / scale_N1 + zero_N1).round().clamp(0, 15)
        value_NK[:, k : k + 1] = (code_N1 - zero_N1) * scale_N1
        error_N1 = (work_NK[:, k : k + 1] - value_NK[:, k : k + 1]) / upper_KK[k, k]
        work_NK[:, k + 1 :] -= error_N1 * upper_KK[k, k + 1 :]
    torch.testing.assert_close(restored_NK, value_NK[:, order_K.argsort()], atol=1e-6, rtol=1e-5)


def test_weights_on_the_grid_are_exact():
    _, x_TK = correlated_layer()
    code_NK = torch.randint(-8, 8, (20, 96), generator=torch.Generator().manual_seed(0))
    code_NK[:, ::16] = 7  # every group reaches the end that sets its scale
    w_NK = code_NK.clamp(-7, 7) * 0.25
    for search in (True, False):
        packed = gptq.solve(w_NK, statistics(x_TK), gptq.Config(bits=4, group_size=16, search=search))
        assert torch.equal(layouts.unpack(packed), w_NK)


def test_groups_stay_in_the_natural_order():
    """A stock reader of the integer layout needs no order: the scale of a group covers its own columns."""
    w_NK, x_TK = correlated_layer()
    w_NK[:, 32:48] *= 100
    packed = gptq.solve(w_NK, statistics(x_TK), gptq.Config(bits=4, group_size=16))
    assert packed.planes.keys() == {"weight", "scale"}
    scale_NG = packed.planes["scale"].float()
    assert (scale_NG[:, 2] > 10 * scale_NG[:, [0, 1, 3, 4, 5]].amax(1)).all()


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize(
    "rows,width,group", [(1, 8, 8), (7, 24, 3), (33, 40, None), (16, 144, 144), (5, 6, 1), (3, 300, 150)]
)
def test_ragged_and_tiny_shapes(bits, act_order, rows, width, group):
    w_NK, x_TK = correlated_layer(rows, width, 64)
    for symmetric in (True, False):
        config = gptq.Config(bits=bits, group_size=group, act_order=act_order, symmetric=symmetric)
        packed = gptq.solve(w_NK, statistics(x_TK), config)
        layouts.check(packed)
        assert layouts.unpack(packed).isfinite().all()


def test_same_bytes_twice_and_inputs_untouched():
    w_NK, x_TK = correlated_layer()
    stats = statistics(x_TK)
    before_w, before_g = w_NK.clone(), stats.gram_KK.clone()
    first, second = (gptq.solve(w_NK, stats, gptq.Config(act_order=False)) for _ in range(2))
    assert all(torch.equal(first.planes[name], second.planes[name]) for name in first.planes)
    assert torch.equal(w_NK, before_w) and torch.equal(stats.gram_KK, before_g)


@pytest.mark.parametrize("magnitude", [1e-12, 1e6])
def test_scale_of_weights_and_inputs_does_not_matter(magnitude):
    w_NK, x_TK = correlated_layer()
    plain = output_error(w_NK, x_TK, gptq.solve(w_NK, statistics(x_TK), gptq.Config()))
    scaled = gptq.solve(w_NK * magnitude, statistics(x_TK * 1000), gptq.Config())
    assert output_error(w_NK * magnitude, x_TK, scaled) == pytest.approx(plain, rel=0.1)


def test_without_tokens_it_is_rounding_to_nearest():
    w_NK, _ = correlated_layer()
    unseen = gptq.solve(w_NK, LayerStats.empty(96), gptq.Config(search=False))
    nearest = rtn.solve(w_NK, None, rtn.Config())
    assert all(torch.equal(unseen.planes[name], nearest.planes[name]) for name in nearest.planes)


def test_dead_inputs_keep_their_weights():
    w_NK, x_TK = correlated_layer()
    x_TK[:, 10:20] = 0
    kept = layouts.unpack(gptq.solve(w_NK, statistics(x_TK), gptq.Config(group_size=16)))[:, 10:20]
    assert (kept - w_NK[:, 10:20]).norm() < 0.3 * w_NK[:, 10:20].norm()


def test_an_indefinite_gram_matrix_says_what_to_do():
    with pytest.raises(MethodError, match="Raise --damping"):
        gptq.solve(torch.randn(4, 8), LayerStats(1, -torch.eye(8) + torch.ones(8, 8)), gptq.Config())
    assert sweep.inverse_factor(torch.eye(8), None, 0.0).isfinite().all()


def test_bad_input_is_refused():
    w_NK, x_TK = correlated_layer()
    for options in ({"bits": 1}, {"bits": 9}, {"damping": -1.0}, {"damping": math.inf}):
        with pytest.raises(MethodError, match="Allowed"):
            gptq.Config(**options)
    with pytest.raises(MethodError, match="does not divide in_features=96"):
        gptq.solve(w_NK, statistics(x_TK), gptq.Config(group_size=10))
    w_NK[1, 3] = torch.nan
    with pytest.raises(MethodError, match="1 of 4608 weights are NaN"):
        gptq.solve(w_NK, statistics(x_TK), gptq.Config())
