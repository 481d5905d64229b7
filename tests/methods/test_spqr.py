"""SpQR and the sweep below it."""

import math

import pytest
import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format import layouts
from compress.methods import rtn, spqr
from compress.numerics import sweep
from tests.support.correlated import correlated_layer, output_error, statistics


def test_beats_round_to_nearest_at_fewer_bits():
    w_NK, x_TK = correlated_layer()
    packed = spqr.solve(w_NK, statistics(x_TK), spqr.Config(bits=3))
    nearest = rtn.solve(w_NK, None, rtn.Config(bits=3, group_size=8))
    assert packed.bits_per_weight < nearest.bits_per_weight
    assert output_error(w_NK, x_TK, packed) < 0.4 * output_error(w_NK, x_TK, nearest)


def test_reaches_the_published_implementation_on_its_own_layer():
    """W 256x512 as in the side-by-side figures: 4.73e-3 (damping 1.0) and 2.98e-3 (0.01) at 4.25 true bits."""
    generator = torch.Generator().manual_seed(0)
    w_NK = torch.randn(256, 512, generator=generator) * 0.02
    w_NK[torch.rand(256, 512, generator=generator) < 0.002] *= 8
    mixing = torch.randn(512, 64, generator=generator) / 8
    scale_K = (torch.arange(1, 513).float() ** -0.4)[torch.randperm(512, generator=generator)]
    latent = torch.randn(64, 4096, generator=generator)
    x_TK = ((mixing @ latent + 0.5 * torch.randn(512, 4096, generator=generator)) * scale_K[:, None]).T
    for damping, published in ((1.0, 4.73e-3), (0.01, 2.98e-3)):
        packed = spqr.solve(w_NK, statistics(x_TK), spqr.Config(damping=damping, layer_bits=4.25))
        assert packed.bits_per_weight <= 4.25
        assert output_error(w_NK, x_TK, packed) <= published


@pytest.mark.parametrize(
    "without",
    [{"search_stats": False}, {"act_order": False}, {"threshold": math.inf}],
    ids=lambda part: next(iter(part)),
)
def test_each_part_pays(without):
    w_NK, x_TK = correlated_layer()
    stats = statistics(x_TK)
    whole = output_error(w_NK, x_TK, spqr.solve(w_NK, stats, spqr.Config()))
    assert whole < output_error(w_NK, x_TK, spqr.solve(w_NK, stats, spqr.Config(**without)))


def test_layer_bits_is_kept_and_used():
    w_NK, x_TK = correlated_layer(rows=64, width=128)
    packed = spqr.solve(w_NK, statistics(x_TK), spqr.Config(layer_bits=4.75))
    assert 4.6 < packed.bits_per_weight <= 4.75
    with pytest.raises(MethodError, match=r"layer_bits=2 is below the .* without any outlier"):
        spqr.solve(w_NK, statistics(x_TK), spqr.Config(layer_bits=2))


def test_fewer_bits_of_the_codes_are_fewer_bits_stored():
    w_NK, x_TK = correlated_layer()
    stored = [spqr.solve(w_NK, statistics(x_TK), spqr.Config(bits=bits)).bits_per_weight for bits in (2, 3, 4)]
    assert stored == sorted(stored) and stored[1] - stored[0] > 0.5


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(
    "rows,width,group", [(1, 8, 8), (7, 24, 3), (33, 40, 40), (16, 144, 144), (5, 6, 1), (3, 300, 150)]
)
def test_ragged_and_tiny_shapes(bits, rows, width, group):
    w_NK, x_TK = correlated_layer(rows, width, 64)
    packed = spqr.solve(w_NK, statistics(x_TK), spqr.Config(bits=bits, group_size=group))
    layouts.check(packed)
    restored = layouts.unpack(packed)
    assert restored.shape == w_NK.shape and restored.isfinite().all()


def test_same_bytes_twice_and_inputs_untouched():
    w_NK, x_TK = correlated_layer()
    stats = statistics(x_TK)
    before_w, before_g = w_NK.clone(), stats.gram_KK.clone()
    first, second = (spqr.solve(w_NK, stats, spqr.Config()) for _ in range(2))
    assert first.scheme == second.scheme and first.planes.keys() == second.planes.keys()
    assert all(torch.equal(first.planes[name], second.planes[name]) for name in first.planes)
    assert torch.equal(w_NK, before_w) and torch.equal(stats.gram_KK, before_g)


@pytest.mark.parametrize("magnitude", [1e-12, 1e6])
def test_scale_of_weights_and_inputs_does_not_matter(magnitude):
    w_NK, x_TK = correlated_layer()
    plain = output_error(w_NK, x_TK, spqr.solve(w_NK, statistics(x_TK), spqr.Config()))
    scaled = spqr.solve(w_NK * magnitude, statistics(x_TK * 1000), spqr.Config())
    assert output_error(w_NK * magnitude, x_TK, scaled) == pytest.approx(plain, rel=0.1)


def test_dead_inputs_and_an_expert_without_tokens():
    w_NK, x_TK = correlated_layer()
    x_TK[:, 10:20] = 0
    packed = spqr.solve(w_NK, statistics(x_TK), spqr.Config(bits=4))
    assert output_error(w_NK, x_TK, packed) < 0.01
    kept = layouts.unpack(packed)[:, 10:20]
    assert (kept - w_NK[:, 10:20]).norm() < 0.3 * w_NK[:, 10:20].norm(), "a dead input keeps its weights"
    unseen = spqr.solve(w_NK, LayerStats.empty(w_NK.shape[1]), spqr.Config(bits=4))
    assert (layouts.unpack(unseen) - w_NK).norm() < 0.2 * w_NK.norm()


def test_zero_and_constant_weights():
    _, x_TK = correlated_layer()
    zero = spqr.solve(torch.zeros(20, 96), statistics(x_TK), spqr.Config())
    assert (layouts.unpack(zero) == 0).all()
    constant = torch.full((20, 96), 0.7)
    assert output_error(constant, x_TK, spqr.solve(constant, statistics(x_TK), spqr.Config())) < 1e-4


def test_outliers_are_restored_to_their_value():
    w_NK, x_TK = correlated_layer()
    w_NK[3, 17] = 40.0
    packed = spqr.solve(w_NK, statistics(x_TK), spqr.Config(act_order=False, threshold=0.2))
    # the weight itself moves a little by compensation; without the delta it would be off by the range of its group
    assert abs(float(layouts.unpack(packed)[3, 17]) - 40.0) < 0.1


@pytest.mark.parametrize("act_order", [False, True])
def test_inverse_factor(act_order):
    _, x_TK = correlated_layer()
    gram_KK = statistics(x_TK).gram_KK
    order_K = sweep.column_order(gram_KK, act_order)
    upper_KK = sweep.inverse_factor(gram_KK, order_K, 0.1)
    reordered = gram_KK if order_K is None else gram_KK[order_K][:, order_K]
    damped = reordered.double() + 0.1 * gram_KK.double().diagonal().mean() * torch.eye(96)
    assert torch.equal(upper_KK, upper_KK.triu())
    torch.testing.assert_close(
        upper_KK.double().T @ upper_KK.double() @ damped, torch.eye(96).double(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("group", [1, 3, 16, 24, 32, 96, 144])
def test_lazy_updates_change_nothing(group):
    """The blocked sweep equals the textbook loop that updates every column at once."""
    w_NK, x_TK = correlated_layer(8, 288)
    upper_KK = sweep.inverse_factor(statistics(x_TK).gram_KK, None, 0.05).double()

    class Coarse:
        def __init__(self):
            self.groups, self.values = [], []

        def start_group(self, group, w_gN, d_g):
            self.groups.append(w_gN.clone())

        def round(self, column, w_N, d):
            self.values.append((w_N / 0.01).round() * 0.01)
            return self.values[-1]

    blocked, plain, w_KN = Coarse(), Coarse(), w_NK.double().T.contiguous()
    sweep.sweep(w_KN.clone(), upper_KK, group, blocked)
    for column in range(288):
        if column % group == 0:
            plain.start_group(0, w_KN[column : column + group], None)
        error_N = (w_KN[column] - plain.round(column, w_KN[column], 0.0)) / upper_KK[column, column]
        w_KN[column + 1 :] -= upper_KK[column, column + 1 :, None] * error_N
    torch.testing.assert_close(torch.stack(blocked.values), torch.stack(plain.values))
    for one, other in zip(blocked.groups, plain.groups, strict=True):
        torch.testing.assert_close(one, other)


def test_bad_options():
    for options in ({"bits": 1}, {"stats_bits": 9}, {"threshold": 0.0}, {"damping": -1.0}, {"stats_group": 0}):
        with pytest.raises(MethodError, match="Allowed"):
            spqr.Config(**options)
    with pytest.raises(MethodError, match="does not divide in_features=96"):
        spqr.solve(correlated_layer()[0], LayerStats.empty(96), spqr.Config(group_size=10))


def _with_huge_weight(w_NK):
    w_NK[3, 5] = 1e5


def _with_huge_row(w_NK):
    w_NK[4] *= 1e7


def _with_huge_group(w_NK):
    w_NK[4, :16] *= 1e5


def _with_tiny_row(w_NK):
    w_NK[4] *= 1e-6


def _with_a_row_far_from_zero(w_NK):
    w_NK[4] = 1000 + 0.02 * w_NK[4]


@pytest.mark.parametrize(
    "change", [_with_huge_weight, _with_huge_row, _with_huge_group, _with_tiny_row, _with_a_row_far_from_zero]
)
def test_scales_far_below_the_greatest_weight_are_held(change):
    """float16 in units of the greatest weight holds scales down to 6e-5 of it, in the normal range."""
    w_NK, x_TK = correlated_layer(64, 128)
    usual = _row_errors(w_NK, x_TK).median()
    change(w_NK)
    errors_N = _row_errors(w_NK, x_TK)
    assert errors_N.isfinite().all() and errors_N.median() < 1.3 * usual and errors_N[4] < 0.3


def _row_errors(w_NK, x_TK):
    packed = spqr.solve(w_NK, statistics(x_TK), spqr.Config())
    layouts.check(packed)
    wrong_NK = layouts.unpack(packed) - w_NK
    return (wrong_NK.square().sum(1) / w_NK.square().sum(1)).sqrt()


def test_the_unit_is_lowered_only_where_it_must_be():
    w_NK, x_TK = correlated_layer(64, 128)
    exponents = []
    for factor in (1.0, 1e4):
        w_NK[4] *= factor
        exponents.append(spqr.solve(w_NK, statistics(x_TK), spqr.Config()).scheme.options["exponent"])
        peak = math.floor(math.log2(float(w_NK.abs().max())))
        exponents[-1] -= peak
    assert exponents == [0, -12]
