"""SVD-LLM: the error is the energy that was dropped, whatever the inputs are; ratios, ranks and their allocation."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import pytest
import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format import layouts
from compress.format.layouts import low_rank
from compress.methods import svd_llm
from compress.methods.svd_llm import Config, solve
from compress.numerics import factors, ratios
from tests.support.correlated import correlated_layer, output_error, statistics

EXACT = {"dtype": "float32", "damping": 0.0, "multiple": 1}
SHAPES = pytest.mark.parametrize("rows,width", [(48, 96), (96, 48), (64, 64)])


def least_error(w_NK: torch.Tensor, x_TK: torch.Tensor, rank: int) -> float:
    """Returns ‖(W − W')X‖² / ‖WX‖² of the best W' of this rank, from the singular values of the outputs themselves."""
    energy_D = torch.linalg.svdvals(w_NK.double() @ x_TK.double().T).square()
    return float(energy_D[rank:].sum() / energy_D.sum())


@SHAPES
@pytest.mark.parametrize("ratio", [0.2, 0.6])
def test_the_error_is_the_energy_that_was_dropped(rows: int, width: int, ratio: float) -> None:
    w_NK, x_TK = correlated_layer(rows, width)
    packed = solve(w_NK, statistics(x_TK), Config(ratio=ratio, **EXACT))
    rank = packed.scheme.options["rank"]
    assert rank == round((1 - ratio) * rows * width / (rows + width))
    assert output_error(w_NK, x_TK, packed) == pytest.approx(least_error(w_NK, x_TK, rank), rel=1e-6)
    whole = float((w_NK.double() @ x_TK.double().T).square().sum())
    lost = svd_llm.measure(w_NK, statistics(x_TK), Config(ratio=ratio, **EXACT))
    assert lost**2 / whole == pytest.approx(least_error(w_NK, x_TK, rank), rel=1e-6)


@SHAPES
def test_the_defaults_cost_little_and_beat_plain_svd(rows: int, width: int) -> None:
    w_NK, x_TK = correlated_layer(rows, width)
    packed = solve(w_NK, statistics(x_TK), Config(ratio=0.4))
    least = least_error(w_NK, x_TK, packed.scheme.options["rank"])
    assert least <= output_error(w_NK, x_TK, packed) < 1.05 * least
    assert packed.scheme.options["rank"] % 8 == 0
    plain = solve(w_NK, statistics(x_TK), Config(ratio=0.4, whiten=False))
    assert output_error(w_NK, x_TK, packed) < 0.5 * output_error(w_NK, x_TK, plain)


@SHAPES
def test_without_tokens_it_is_the_truncated_svd(rows: int, width: int) -> None:
    w_NK, _ = correlated_layer(rows, width)
    left, energy, right = torch.linalg.svd(w_NK.double(), full_matrices=False)
    for stats in (None, LayerStats.empty(width)):
        packed = solve(w_NK, stats, Config(ratio=0.5, **EXACT))
        rank = packed.scheme.options["rank"]
        best_NK = (left[:, :rank] * energy[:rank]) @ right[:rank]
        torch.testing.assert_close(layouts.unpack(packed), best_NK.float(), rtol=1e-5, atol=1e-6)


@SHAPES
@pytest.mark.parametrize("damping", [0.0, 1e-4])
def test_dead_and_dependent_inputs_need_no_care(rows: int, width: int, damping: float) -> None:
    w_NK, x_TK = correlated_layer(rows, width, tokens=20)  # fewer tokens than inputs
    x_TK[:, 3] = 0
    x_TK[:, 5] = x_TK[:, 6]
    packed = solve(w_NK, statistics(x_TK), Config(ratio=0.4, **EXACT | {"damping": damping}))
    assert packed.scheme.options["rank"] >= 19
    # 20 tokens span no more than 20 directions of the outputs
    assert output_error(w_NK, x_TK, packed) < 1e-4 + least_error(w_NK, x_TK, packed.scheme.options["rank"])
    weight = layouts.unpack(packed)
    assert weight.isfinite().all() and weight.abs().max() < 10 * w_NK.abs().max()


def test_zeros_stay_zero() -> None:
    w_NK, x_TK = correlated_layer()
    zero = solve(torch.zeros_like(w_NK), statistics(x_TK), Config())
    assert not layouts.unpack(zero).any()
    w_NK[:, 7] = 0
    assert not layouts.unpack(solve(w_NK, statistics(x_TK), Config()))[:, 7].any()


def test_it_is_pure_and_repeatable() -> None:
    w_NK, x_TK = correlated_layer()
    before, stats = w_NK.clone(), statistics(x_TK)
    first, second = (solve(w_NK, stats, Config()) for _ in range(2))
    assert w_NK.equal(before) and stats.gram_KK.equal(statistics(x_TK).gram_KK)
    assert all(first.planes[name].equal(second.planes[name]) for name in first.planes)
    layouts.check(first)


def test_the_factors_share_the_norm_and_the_refit_helps() -> None:
    w_NK, x_TK = correlated_layer()
    left_Nr, right_rK = factors.truncated(w_NK, factors.directions(w_NK, None, 0.0), 12)
    torch.testing.assert_close(left_Nr.norm(dim=0), right_rK.norm(dim=1))
    coarse_rK = right_rK.to(torch.float8_e4m3fn).double()
    gram_KK = statistics(x_TK).gram_KK
    fitted_Nr = factors.refitted(w_NK, coarse_rK, gram_KK, 0.0)
    found = factors.lost(w_NK, fitted_Nr @ coarse_rK, gram_KK)
    assert found < factors.lost(w_NK, left_Nr @ coarse_rK, gram_KK)
    expected_rN = torch.linalg.lstsq(x_TK.double() @ coarse_rK.T, x_TK.double() @ w_NK.double().T).solution
    torch.testing.assert_close(fitted_Nr, expected_rN.T, rtol=1e-3, atol=1e-6)


def test_a_right_factor_that_lacks_rank_is_refitted_all_the_same() -> None:
    w_NK, x_TK = correlated_layer()
    right_rK = torch.randn(12, w_NK.shape[1], generator=torch.Generator().manual_seed(0))
    right_rK[6:] = right_rK[:6]
    fitted_Nr = factors.refitted(w_NK, right_rK, statistics(x_TK).gram_KK, 0.0)
    assert fitted_Nr.isfinite().all() and fitted_Nr.abs().max() < 10


@pytest.mark.parametrize("shape", [(192, 192), (64, 192), (512, 192), (100, 37), (3, 500)])
@pytest.mark.parametrize("ratio", [0.01, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_a_rank_saves_something_and_gives_its_share_back(shape: tuple[int, int], ratio: float, multiple: int) -> None:
    rank = ratios.rank_of(shape, ratio, multiple)
    assert rank <= low_rank.break_even(shape)
    assert rank % multiple == 0 or rank < multiple
    if rank:
        assert ratios.rank_of(shape, ratios.ratio_of(shape, rank), multiple) == rank


def test_what_cannot_be_is_refused() -> None:
    for options in ({"ratio": 0.0}, {"ratio": 1.0}, {"multiple": 0}, {"damping": -1.0}, {"dtype": "int8"}):
        with pytest.raises(MethodError, match=next(iter(options))):
            Config(**options)
    with pytest.raises(
        MethodError, match=r"ratio=0\.99 leaves no rank for a weight of 16 × 16.*Allowed: up to 0\.8750"
    ):
        svd_llm.check((16, 16), Config(ratio=0.99))
    with pytest.raises(MethodError, match=r"1 × 9 is smaller than its factors of rank 1.*--skip"):
        svd_llm.check((1, 9), Config())
    with pytest.raises(MethodError, match="NaN"):
        solve(torch.full((16, 16), torch.nan), None, Config())


class TestAllocation:
    NAMES = tuple(f"model.layers.{i}.{kind}" for i in range(6) for kind in ("attn.q_proj", "mlp.up_proj"))
    SHAPES: ClassVar = {name: (64, 64) if "q_proj" in name else (256, 64) for name in NAMES}

    @staticmethod
    def removed(shares: dict[str, float], shapes: dict[str, tuple[int, int]]) -> float:
        sizes = {name: math.prod(shapes[name]) for name in shares}
        return sum(shares[name] * sizes[name] for name in shares) / sum(sizes.values())

    @pytest.mark.parametrize("ratio", [0.1, 0.3, 0.8])
    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
    def test_the_mean_is_the_ratio_and_lossy_linears_give_less(self, ratio: float, scale: float) -> None:
        losses = {name: scale * (1 + number) ** 2 for number, name in enumerate(self.NAMES)}
        shares = ratios.allot(losses, self.SHAPES, ratio)
        step = sum(sum(self.SHAPES[name]) for name in self.NAMES[:2]) / sum(map(math.prod, self.SHAPES.values()))
        assert ratio <= self.removed(shares, self.SHAPES) < ratio + step
        for kind in ("q_proj", "up_proj"):
            of_kind = [shares[name] for name in self.NAMES if kind in name]
            a_rank = 1 - ratios.ratio_of(
                self.SHAPES[f"model.layers.0.{'attn' if kind == 'q_proj' else 'mlp'}.{kind}"], 1
            )
            assert all(one > other - 1.01 * a_rank for one, other in pairwise(of_kind))
            assert of_kind[0] >= of_kind[-1] + (0.1 * ratio if scale <= 1 else 0)
        for name, share in shares.items():
            rank = ratios.rank_of(self.SHAPES[name], share, 1)
            assert 1 <= rank <= low_rank.break_even(self.SHAPES[name])

    def test_it_is_the_formula_of_the_paper_where_that_is_defined(self) -> None:
        shapes = {f"layers.{i}.q_proj": (4096, 4096) for i in range(3)}
        losses = dict(zip(shapes, (math.e**2, math.e**3, math.e**4), strict=True))
        shares = ratios.allot(losses, shapes, 0.2)
        weight = [1 / 2, 1 / 3, 1 / 4]
        for share, one in zip(shares.values(), weight, strict=True):
            assert share == pytest.approx(3 * 0.2 * one / sum(weight), abs=1 / 2048)

    def test_one_loss_of_zero_gives_as_much_as_the_least(self) -> None:
        shapes = {f"layers.{i}.q_proj": (512, 512) for i in range(3)}
        shares = list(ratios.allot(dict(zip(shapes, (0.0, 5.0, 50.0), strict=True)), shapes, 0.3).values())
        assert shares[0] == pytest.approx(shares[1], abs=1 / 256) and shares[2] < shares[1]
        assert set(ratios.allot(dict.fromkeys(shapes, 0.0), shapes, 0.3, 8).values()) == {
            ratios.ratio_of((512, 512), 176), ratios.ratio_of((512, 512), 184)
        }  # fmt: skip

    def test_ranks_are_multiples_and_together_keep_the_budget(self) -> None:
        losses = {name: float(1 + number) for number, name in enumerate(self.NAMES)}
        config = Config(ratio=0.3, multiple=8)
        overrides = svd_llm.allot(losses, self.SHAPES, config)
        shares = {name: options["ratio"] for name, options in overrides.items()}
        ranks = {name: ratios.rank_of(self.SHAPES[name], share, 8) for name, share in shares.items()}
        assert all(rank % 8 == 0 for rank in ranks.values())
        assert 0.3 <= self.removed(shares, self.SHAPES) < 0.33
        assert svd_llm.allot(losses, self.SHAPES, Config(allocate=False)) == {}

    def test_experts_of_a_projection_compete_with_one_another(self) -> None:
        losses = {f"layers.0.experts.q_down_proj.{i}": 10.0 ** (i + 1) for i in range(3)}
        shares = list(ratios.allot(losses, dict.fromkeys(losses, (256, 256)), 0.3).values())
        assert shares == sorted(shares, reverse=True) and shares[0] > 0.4
