"""EasyQuant and the search for ranges below it."""

import math

import pytest
import torch

from compress.errors import MethodError
from compress.format import layouts
from compress.kernels import select
from compress.methods import easyquant, rtn
from compress.numerics import ranges
from compress.runtime.linear import PackedLinear
from tests.support.correlated import correlated_layer, output_error


def weight_error(w_NK, packed):
    return float((w_NK - layouts.unpack(packed)).square().sum() / w_NK.square().sum())


def heavy(rows=64, width=256, seed=3):
    generator = torch.Generator().manual_seed(seed)
    w_NK = torch.randn(rows, width, generator=generator) * 0.02
    w_NK[torch.rand(rows, width, generator=generator) < 0.003] *= 10
    return w_NK


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_beats_round_to_nearest_at_fewer_bits(bits):
    w_NK, x_TK = correlated_layer()
    packed = easyquant.solve(w_NK, None, easyquant.Config(bits=bits, group_size=-1))
    nearest = rtn.solve(w_NK, None, rtn.Config(bits=bits, group_size=24))
    assert packed.bits_per_weight < nearest.bits_per_weight
    assert output_error(w_NK, x_TK, packed) < 0.5 * output_error(w_NK, x_TK, nearest)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outliers_come_back_exactly(symmetric, dtype):
    w_NK = heavy().to(dtype).float()
    packed = easyquant.solve(w_NK, None, easyquant.Config(symmetric=symmetric))
    layouts.check(packed)
    far_NK = (w_NK - w_NK.mean()).abs() >= 3 * w_NK.std(unbiased=False)
    assert packed.scheme.outliers == int(far_NK.sum()) > 0
    assert torch.equal(layouts.unpack(packed)[far_NK], w_NK[far_NK])


def test_both_parts_pay_and_the_range_alone_pays_less():
    w_NK = heavy()
    both = weight_error(w_NK, easyquant.solve(w_NK, None, easyquant.Config()))
    for without in ({"sigma": math.inf}, {"fit": "extremes"}):
        assert both < 0.9 * weight_error(w_NK, easyquant.solve(w_NK, None, easyquant.Config(**without)))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_scan_equals_the_gradient_and_a_fine_scan(bits, symmetric):
    w_NK = heavy().clamp(-0.06, 0.06)
    w_NGg = w_NK[:, None]

    def error(found):
        codes_NK = ranges.codes(w_NGg, found, bits).float()
        zero = 2.0 ** (bits - 1) if found.zero_NG is None else found.zero_NG
        return float(((codes_NK - zero) * found.scale_NG.float() - w_NK).square().sum() / w_NK.square().sum())

    scanned = error(ranges.searched(w_NGg, bits, symmetric))
    start = ranges.extremes(w_NGg, bits, symmetric)
    factors = torch.logspace(math.log10(0.1), 0, 80)
    fine = min_over_rows(w_NGg, bits, start, factors)
    assert scanned <= 1.002 * fine
    assert scanned <= 1.002 * error(ranges.descended(w_NGg, bits, symmetric, 200))


def min_over_rows(w_NGg, bits, start, factors):
    """The least error of each row over 80 scales, each refreshed by least squares until it stands."""
    zero = 2.0 ** (bits - 1) if start.zero_NG is None else start.zero_NG[..., None]
    best_NG = torch.full(start.scale_NG.shape, math.inf)
    for factor in factors:
        scale_NG = start.scale_NG.float() * factor
        for _ in range(20):
            q = (w_NGg / scale_NG[..., None] + zero).round().clamp(0, 2**bits - 1) - zero
            best_NG = torch.minimum(best_NG, (q * scale_NG[..., None] - w_NGg).square().sum(-1))
            scale_NG = ((q * w_NGg).sum(-1) / q.square().sum(-1).clamp_min(1e-12)).clamp_min(1e-12)
    return float(best_NG.sum() / w_NGg.square().sum())


def test_a_weighted_range_serves_the_weights_that_count():
    w_NK = heavy()[:, :64]
    weight_1g = torch.ones(1, 64)
    weight_1g[:, :8] = 100

    def error(found):
        value = (ranges.codes(w_NK[:, None], found, 2).float() - 2) * found.scale_NG.float()
        return float(((value - w_NK).square() * weight_1g).sum())

    weighted = ranges.searched(w_NK[:, None], 2, True, weight_1g)
    assert error(weighted) < error(ranges.searched(w_NK[:, None], 2, True))


def test_budgets():
    w_NK = heavy()
    share = easyquant.solve(w_NK, None, easyquant.Config(outlier_share=0.01))
    assert share.scheme.outliers == int(0.01 * w_NK.numel())
    bits = easyquant.solve(w_NK, None, easyquant.Config(outlier_bits=0.3))
    plain = easyquant.solve(w_NK, None, easyquant.Config(sigma=math.inf))
    assert plain.scheme.outliers == 0
    assert 0.28 < bits.bits_per_weight - plain.bits_per_weight <= 0.3
    none = easyquant.solve(w_NK, None, easyquant.Config(outlier_bits=0.01))  # less than the row pointers take
    assert none.scheme.outliers == 0


def test_weights_on_the_grid_are_exact():
    code_NK = torch.randint(-8, 8, (20, 96), generator=torch.Generator().manual_seed(0))
    w_NK = code_NK * 0.25
    assert torch.equal(layouts.unpack(easyquant.solve(w_NK, None, easyquant.Config(bits=4, sigma=math.inf))), w_NK)


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("fit", ["scan", "gradient", "extremes"])
@pytest.mark.parametrize("rows,width,group", [(1, 8, 8), (7, 24, 3), (33, 40, None), (5, 6, 1), (1, 1, None)])
def test_ragged_and_tiny_shapes(bits, fit, rows, width, group):
    w_NK, _ = correlated_layer(rows, width, 8)
    for symmetric in (True, False):
        config = easyquant.Config(bits=bits, group_size=group, symmetric=symmetric, fit=fit, steps=5)
        packed = easyquant.solve(w_NK, None, config)
        layouts.check(packed)
        assert layouts.unpack(packed).isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.7, -0.3])
def test_zero_and_constant_weights(value):
    packed = easyquant.solve(torch.full((5, 16), value), None, easyquant.Config())
    assert (layouts.unpack(packed) - value).abs().max() <= 1e-3 * abs(value)


def test_same_bytes_twice_and_inputs_untouched():
    w_NK = heavy()
    before = w_NK.clone()
    first, second = (easyquant.solve(w_NK, None, easyquant.Config()) for _ in range(2))
    assert all(torch.equal(first.planes[name], second.planes[name]) for name in first.planes)
    assert torch.equal(w_NK, before)


def test_chunks_change_nothing(monkeypatch):
    w_NK = heavy()
    whole = easyquant.solve(w_NK, None, easyquant.Config(group_size=32, symmetric=False))
    monkeypatch.setattr(ranges, "_CHUNK", 700)
    pieces = easyquant.solve(w_NK, None, easyquant.Config(group_size=32, symmetric=False))
    assert all(torch.equal(whole.planes[name], pieces.planes[name]) for name in whole.planes)


@pytest.mark.parametrize("magnitude", [1e-20, 1e-3, 1e4])
def test_any_magnitude_of_weights(magnitude):
    w_NK = torch.randn(8, 64, generator=torch.Generator().manual_seed(2)) * magnitude
    packed = easyquant.solve(w_NK, None, easyquant.Config(bits=8, sigma=math.inf))
    assert (layouts.unpack(packed) - w_NK).norm() < 0.01 * w_NK.norm()


def test_bad_input_is_refused():
    for options in (
        {"bits": 1},
        {"sigma": 0.0},
        {"outlier_share": 0.6},
        {"outlier_bits": 17.0},
        {"fit": "adam"},
        {"steps": 0},
    ):
        with pytest.raises(MethodError, match="Allowed"):
            easyquant.Config(**options)
    with pytest.raises(MethodError, match="Give one of them"):
        easyquant.Config(outlier_share=0.1, outlier_bits=0.1)
    with pytest.raises(MethodError, match="does not divide in_features=96"):
        easyquant.solve(correlated_layer()[0], None, easyquant.Config(group_size=10))
    w_NK = torch.ones(2, 8)
    w_NK[1, 3] = torch.nan
    with pytest.raises(MethodError, match="1 of 16 weights are NaN"):
        easyquant.solve(w_NK, None, easyquant.Config())


@pytest.mark.parametrize("factor", [1e-9, 1e-6, 1.0, 1e6, 1e12])
@pytest.mark.parametrize("symmetric", [True, False])
def test_outliers_of_any_magnitude_are_held(factor, symmetric):
    """float16 holds weights from 6e-5 to 65504; others make the deltas float32."""
    w_NK = (heavy() * factor).bfloat16().float()
    packed = easyquant.solve(w_NK, None, easyquant.Config(symmetric=symmetric))
    layouts.check(packed)
    far_NK = (w_NK - w_NK.mean()).abs() >= 3 * w_NK.std(unbiased=False)
    assert torch.equal(layouts.unpack(packed)[far_NK], w_NK[far_NK]) and packed.scheme.outliers == int(far_NK.sum())
    assert packed.planes["delta_val"].dtype == (torch.float16 if factor == 1.0 else torch.float32)
    assert packed.scheme.options.get("delta_dtype", "float16") == str(packed.planes["delta_val"].dtype)[6:]
    assert weight_error(w_NK, packed) == pytest.approx(weight_error(heavy(), packed_heavy(symmetric)), rel=0.05)


def packed_heavy(symmetric):
    return easyquant.solve(heavy(), None, easyquant.Config(symmetric=symmetric))


def test_one_outlier_out_of_range_is_held():
    w_NK = heavy()
    w_NK[3, 5] = 1e5
    packed = easyquant.solve(w_NK, None, easyquant.Config())
    assert layouts.unpack(packed)[3, 5] == 1e5 and packed.planes["delta_val"].dtype == torch.float32


def test_wide_outliers_keep_within_their_bits():
    packed = easyquant.solve(heavy() * 1e6, None, easyquant.Config(bits=4, outlier_bits=0.5))
    plain = easyquant.solve(heavy() * 1e6, None, easyquant.Config(bits=4, sigma=math.inf))
    assert packed.scheme.outliers > 0
    assert packed.bits_per_weight <= plain.bits_per_weight + 0.5


def test_kernels_compute_with_wide_deltas():
    packed = easyquant.solve(heavy() * 1e6, None, easyquant.Config())
    x_TK = torch.randn(3, packed.shape[1], generator=torch.Generator().manual_seed(0))
    y_TN = PackedLinear.from_packed(packed, None)(x_TK)
    torch.testing.assert_close(y_TN, x_TK @ layouts.unpack(packed).T, rtol=1e-4, atol=1e-4 * float(y_TN.abs().max()))
    answer = select.select(packed.scheme, packed.shape, "cpu")
    assert answer == select.Accepted("reference")
