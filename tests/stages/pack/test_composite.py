"""Packing the parts of composite linears: low-rank factors one after the other, kept weights of sparse ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError, RecipeError
from compress.format import layouts
from compress.format.layouts import dense, low_rank, sparse_nm
from compress.format.packed import PackedTensor
from compress.methods import registry
from compress.numerics import nm
from compress.stages.pack import composite
from tests.support.correlated import correlated_layer, output_error, statistics

aqlm, finequant, gptq, rtn, spqr, svd_llm = (
    registry.load_pack(name) for name in ("aqlm", "finequant", "gptq", "rtn", "spqr", "svd_llm")
)
QUANTISERS = [
    (rtn, {"bits": 4, "group_size": 8}),
    (finequant, {"bits": 4}),
    (gptq, {"bits": 4, "group_size": 8}),
    (spqr, {"bits": 3, "group_size": 8}),
]
each = pytest.mark.parametrize("method,options", QUANTISERS, ids=lambda v: getattr(v, "name", ""))


def factors(width: int = 96) -> tuple[torch.Tensor, torch.Tensor, PackedTensor]:
    w_NK, x_TK = correlated_layer(64, width)
    return w_NK, x_TK, svd_llm.solve(w_NK, statistics(x_TK), svd_llm.Config(ratio=0.2))


def halved() -> PackedTensor:
    w_NK, _ = correlated_layer(64, 96)
    return nm.pack(w_NK, nm.mask_nm(w_NK.abs(), 2, 4), 2, 4)


@each
def test_factors_are_packed_one_after_the_other(method, options):
    _, x_TK, product = factors()
    config = method.Config(**options)
    composite.check(method, product.scheme, product.shape, config, layer="model.x")
    packed = composite.solve(method, product, statistics(x_TK), config)
    layouts.check(packed)
    assert packed.scheme.layout == "low_rank.v1" and packed.bits_per_weight < 0.5 * product.bits_per_weight
    right = layouts.parts(packed)["right"]
    alone = method.solve(layouts.unpack(layouts.parts(product)["right"]), statistics(x_TK), config)
    assert all(torch.equal(plane, right.planes[name]) for name, plane in alone.planes.items())
    assert output_error(layouts.unpack(product), x_TK, packed) < 0.12


@each
def test_statistics_between_the_factors_and_the_refit_lower_the_error(method, options):
    _, x_TK, product = factors()
    config, stats = method.Config(**options), statistics(x_TK)
    parts = {name: layouts.unpack(part) for name, part in layouts.parts(product).items()}
    right = method.solve(parts["right"], stats, config)
    naive = layouts.repack(
        product, {"left": method.solve(parts["left"], _white(parts["left"]), config), "right": right}
    )
    wanted = layouts.unpack(product)
    error = output_error(wanted, x_TK, composite.solve(method, product, stats, config))
    assert error < output_error(wanted, x_TK, naive)


def _white(left_Nr: torch.Tensor) -> LayerStats:
    return LayerStats(1, torch.eye(left_Nr.shape[1]))


def test_the_left_factor_is_solved_on_what_the_packed_right_one_gives(monkeypatch):
    _, x_TK, product = factors()
    seen = []

    def watching(w_NK, stats, config):
        seen.append((w_NK.shape, stats))
        return solve(w_NK, stats, config)

    solve = gptq.solve
    monkeypatch.setattr(gptq, "solve", watching)
    packed = composite.solve(gptq, product, statistics(x_TK), gptq.Config(bits=3))
    (_, of_right), (_, of_left) = seen
    assert torch.equal(of_right.gram_KK, statistics(x_TK).gram_KK)
    between_Tr = x_TK @ layouts.unpack(layouts.parts(packed)["right"]).T
    torch.testing.assert_close(of_left.gram_KK, between_Tr.T @ between_Tr, rtol=1e-3, atol=1e-3)
    assert of_left.num_tokens == of_right.num_tokens


@pytest.mark.parametrize("stats", [None, LayerStats.empty(96)], ids=["none", "no token"])
def test_factors_of_a_linear_without_tokens_are_packed_as_they_are(stats):
    _, _, product = factors()
    packed = composite.solve(rtn, product, stats, rtn.Config(bits=8))
    for name, part in layouts.parts(packed).items():
        weight = layouts.unpack(layouts.parts(product)[name])
        assert torch.equal(part.planes["weight"], rtn.solve(weight, None, rtn.Config(bits=8)).planes["weight"])


def test_kept_weights_are_packed_and_the_rest_stays_zero():
    sparse = halved()
    for method in (rtn, finequant):
        packed = composite.solve(method, sparse, None, method.Config(bits=4))
        layouts.check(packed)
        assert torch.equal(sparse_nm.mask(packed), sparse_nm.mask(sparse))
        assert not layouts.unpack(packed)[~sparse_nm.mask(sparse)].any()
        assert packed.scheme.bits == 4 and packed.bits_per_weight < 4


def test_the_added_product_stays():
    sparse = halved()
    slorb = torch.ones(64, 1), torch.ones(1, 96)
    with_slorb = sparse_nm.pack(layouts.parts(sparse)["values"], sparse_nm.mask(sparse), n=2, m=4, slorb=slorb)
    packed = composite.solve(rtn, with_slorb, None, rtn.Config(bits=8))
    assert packed.scheme.options["slorb"] == 1
    assert (layouts.unpack(packed)[~sparse_nm.mask(sparse)] == 1).all()


def test_methods_that_cannot_are_refused_by_name():
    _, _, product = factors()
    sparse = halved()
    for method in (gptq, spqr, aqlm):
        with pytest.raises(
            RecipeError, match=r"model\.x: .*sparse_nm\.v1: it needs the statistics.*Allowed: .*finequant"
        ) as e:
            composite.check(method, sparse.scheme, sparse.shape, method.Config(), layer="model.x")
        assert "gptq" not in str(e.value.allowed)
        composite.check(method, product.scheme, product.shape, _fitting(method), layer="model.x")
    for one in (product, sparse):
        with pytest.raises(RecipeError, match=r"svd_llm cannot pack a linear .* it makes parts itself.*Allowed: .*rtn"):
            composite.check(svd_llm, one.scheme, one.shape, svd_llm.Config(), layer="model.x")


def _fitting(method):
    return method.Config(group_size=8)


def test_options_that_do_not_fit_a_part_say_which():
    _, _, product = factors()
    rank = product.scheme.options["rank"]
    with pytest.raises(
        MethodError, match=rf"model\.x: part 'left' \[64, {rank}\] of low_rank\.v1: group_size=24 .*--multiple"
    ):
        composite.check(rtn, product.scheme, product.shape, rtn.Config(group_size=24), layer="model.x")
    with pytest.raises(MethodError, match=r"part 'values' \[64, 48\] of sparse_nm\.v1: group_size=32"):
        composite.check(rtn, halved().scheme, (64, 96), rtn.Config(group_size=32), layer="model.x")


def test_plain_tensors_are_none_of_its_business():
    plain = rtn.solve(torch.randn(8, 16), None, rtn.Config())
    assert not composite.is_composite(plain) and not composite.is_composite(None)
    assert composite.is_composite(halved())
    composite.check(gptq, plain.scheme, plain.shape, gptq.Config(group_size=7), layer="model.x")


def test_a_product_of_quantised_factors_can_be_packed_again():
    _, x_TK, product = factors()
    once = composite.solve(rtn, product, statistics(x_TK), rtn.Config(bits=8, group_size=8))
    twice = composite.solve(gptq, once, statistics(x_TK), gptq.Config(bits=4, group_size=8))
    layouts.check(twice)
    assert dataclasses.asdict(twice.scheme)["options"]["left"]["bits"] == 4
    assert isinstance(low_rank.parts(twice)["left"], PackedTensor) and dense.PART_LAYOUT not in str(twice.scheme)
