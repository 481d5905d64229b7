"""AQLM: codebooks, codes, and the new codes of PV-tuning."""

import math

import pytest
import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format import layouts
from compress.format.layouts import additive
from compress.methods import aqlm, gptq, rtn
from compress.numerics import additive_books, additive_codes
from compress.numerics.additive_recode import recode
from tests.support.correlated import correlated_layer, output_error, statistics

SMALL = {"codebooks": 2, "code_bits": 4, "group_size": 8}


def test_beats_rounding_at_fewer_bits():
    w_NK, x_TK = correlated_layer(rows=512)
    packed = aqlm.solve(w_NK, statistics(x_TK), aqlm.Config(codebooks=3, code_bits=5, lengthen=0.0))
    assert packed.bits_per_weight < 2.5
    for method, share in ((rtn, 0.2), (gptq, 0.7)):
        other = method.solve(w_NK, statistics(x_TK), method.Config(bits=2, group_size=32, symmetric=True))
        assert packed.bits_per_weight <= other.bits_per_weight
        assert output_error(w_NK, x_TK, packed) < share * output_error(w_NK, x_TK, other)


@pytest.mark.parametrize("books,published", [(1, 7.98e-2), (2, 2.28e-2), (3, 7.64e-3)], ids=["1x8", "2x8", "3x8"])
def test_is_better_than_the_published_implementation_on_its_own_layer(books, published):
    """W 256x512 as in the side-by-side figures of the published code, g = 8; 2x8 with its beam of four."""
    generator = torch.Generator().manual_seed(0)
    w_NK = torch.randn(256, 512, generator=generator) * 0.02
    w_NK[torch.rand(256, 512, generator=generator) < 0.002] *= 8
    mixing = torch.randn(512, 64, generator=generator) / 8
    scale_K = (torch.arange(1, 513).float() ** -0.4)[torch.randperm(512, generator=generator)]
    latent = torch.randn(64, 4096, generator=generator)
    x_TK = ((mixing @ latent + 0.5 * torch.randn(512, 4096, generator=generator)) * scale_K[:, None]).T
    packed = aqlm.solve(w_NK, statistics(x_TK), aqlm.Config(codebooks=books, lengthen=0.0))
    assert packed.bits_per_weight == pytest.approx(books * (1 + 0.25) + 16 / 512, abs=1e-3)
    assert output_error(w_NK, x_TK, packed) < 0.8 * published


def test_rows_are_lengthened_towards_the_weights():
    w_NK, x_TK = correlated_layer(rows=256)
    stats = statistics(x_TK)

    def along(lengthen):
        packed = aqlm.solve(w_NK, stats, aqlm.Config(codebooks=3, code_bits=5, lengthen=lengthen))
        return float((layouts.unpack(packed) * w_NK).sum() / w_NK.square().sum()), output_error(w_NK, x_TK, packed)

    (short, least), (longer, error) = along(0.0), along(1.0)
    assert short < 0.95 and short < longer < 1.02
    assert least < error < 4 * least


def test_each_part_pays():
    w_NK, x_TK = correlated_layer()
    stats = statistics(x_TK)

    def error(**options):
        return output_error(w_NK, x_TK, aqlm.solve(w_NK, stats, aqlm.Config(**(SMALL | {"lengthen": 0.0} | options))))

    whole = error()
    assert whole < error(rounds=0)
    assert whole < error(beam_width=1)


def test_weights_that_are_vectors_of_a_codebook_are_found_again():
    generator = torch.Generator().manual_seed(1)
    books_MVg = torch.randn(1, 16, 8, generator=generator)
    # every row has every vector once, so all rows have one norm and one scale
    codes_NJM = torch.stack([torch.randperm(16, generator=generator) for _ in range(64)])[..., None]
    w_NK = layouts.unpack(additive.pack(codes_NJM, books_MVg, torch.linspace(0.5, 2, 64)))
    _, x_TK = correlated_layer(width=128)
    packed = aqlm.solve(w_NK, statistics(x_TK), aqlm.Config(codebooks=1, code_bits=4))
    assert output_error(w_NK, x_TK, packed) < 1e-6


def test_fewer_vectors_than_a_codebook_holds():
    w_NK, x_TK = correlated_layer(16, 64)
    for books, bits in ((1, 16), (2, 12), (1, 8)):
        packed = aqlm.solve(w_NK, statistics(x_TK), aqlm.Config(codebooks=books, code_bits=bits))
        layouts.check(packed)
        assert output_error(w_NK, x_TK, packed) < 1e-5, "every vector can stand for itself"


@pytest.mark.parametrize("options", [{}, SMALL, {"codebooks": 3, "code_bits": 3, "beam_width": 1}], ids=str)
@pytest.mark.parametrize("rows,width,group", [(1, 8, 8), (7, 24, 3), (33, 40, 8), (5, 6, 1), (1, 1, 1), (16, 144, 144)])
def test_ragged_and_tiny_shapes(rows, width, group, options):
    w_NK, x_TK = correlated_layer(rows, width, 64)
    packed = aqlm.solve(w_NK, statistics(x_TK), aqlm.Config(**(options | {"group_size": group, "rounds": 2})))
    layouts.check(packed)
    assert layouts.unpack(packed).isfinite().all()


def test_same_bytes_twice_and_inputs_untouched():
    w_NK, x_TK = correlated_layer()
    stats = statistics(x_TK)
    before_w, before_g, state = w_NK.clone(), stats.gram_KK.clone(), torch.random.get_rng_state()
    first, second = (aqlm.solve(w_NK, stats, aqlm.Config(**SMALL)) for _ in range(2))
    assert all(torch.equal(first.planes[name], second.planes[name]) for name in first.planes)
    assert torch.equal(w_NK, before_w) and torch.equal(stats.gram_KK, before_g)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers are its own"


@pytest.mark.parametrize("magnitude", [1e-12, 1e6])
def test_scale_of_weights_and_inputs_does_not_matter(magnitude):
    w_NK, x_TK = correlated_layer()
    plain = output_error(w_NK, x_TK, aqlm.solve(w_NK, statistics(x_TK), aqlm.Config(**SMALL)))
    scaled = aqlm.solve(w_NK * magnitude, statistics(x_TK * 1000), aqlm.Config(**SMALL))
    assert output_error(w_NK * magnitude, x_TK, scaled) == pytest.approx(plain, rel=0.1)


def test_dead_inputs_and_an_expert_without_tokens():
    w_NK, x_TK = correlated_layer()
    x_TK[:, 10:20] = 0
    kept = layouts.unpack(aqlm.solve(w_NK, statistics(x_TK), aqlm.Config(codebooks=3)))[:, 10:20]
    assert (kept - w_NK[:, 10:20]).norm() < 0.3 * w_NK[:, 10:20].norm(), "a dead input keeps its weights"
    unseen = aqlm.solve(w_NK, LayerStats.empty(w_NK.shape[1]), aqlm.Config(codebooks=3))
    assert (layouts.unpack(unseen) - w_NK).norm() < 0.2 * w_NK.norm()


def test_zero_rows_and_a_zero_matrix():
    w_NK, x_TK = correlated_layer()
    w_NK[3] = 0
    packed = aqlm.solve(w_NK, statistics(x_TK), aqlm.Config(**SMALL))
    layouts.check(packed)
    assert (layouts.unpack(packed)[3] == 0).all()
    assert (layouts.unpack(aqlm.solve(torch.zeros(20, 96), statistics(x_TK), aqlm.Config(**SMALL))) == 0).all()


def test_a_sweep_lowers_every_row_and_chunks_change_nothing(monkeypatch):
    w_NK, x_TK = correlated_layer()
    gram_KK = statistics(x_TK).gram_KK
    generator = torch.Generator().manual_seed(0)
    books_MVg = torch.randn(2, 16, 8, generator=generator) * 0.02
    codes_NJM = torch.randint(0, 16, (48, 12, 2), generator=generator)
    scale_N = torch.ones(48)

    def losses(codes_NJM):
        wrong_NK = w_NK - additive.assemble(additive.Expanded(codes_NJM), {"codebooks": books_MVg, "scale": scale_N})
        return ((wrong_NK @ gram_KK) * wrong_NK).sum(1)

    found = []
    for chunk in (1 << 23, 300):
        monkeypatch.setattr(additive_codes, "_CHUNK", chunk)
        search = additive_codes.Search(w_NK, gram_KK, 8, codes_NJM.clone())
        search.sweep(books_MVg, scale_N, 4, list(range(11, -1, -1)))
        found.append(search.codes_NJM)
    assert torch.equal(found[0], found[1])
    assert (losses(found[0]) <= losses(codes_NJM) * (1 + 1e-5)).all()
    assert losses(found[0]).sum() < 0.5 * losses(codes_NJM).sum()


def test_codebooks_are_the_least_squares_solution():
    """Conjugate gradients against the normal equations, solved outright in float64."""
    w_NK, x_TK = correlated_layer(24, 16)
    gram_KK = statistics(x_TK).gram_KK / 100
    codes_NJM = torch.randint(0, 4, (24, 4, 2), generator=torch.Generator().manual_seed(0))
    scale_N = torch.linspace(0.5, 2, 24)
    squares = additive_books.LeastSquares(codes_NJM, scale_N, gram_KK, torch.Size((2, 4, 4)))
    found = squares.solve(w_NK, torch.zeros(2, 4, 4), 60)
    # column by column of the linear map from codebooks to weights
    basis = torch.eye(32).view(32, 2, 4, 4)
    map_PQ = torch.stack([squares.decode(one).flatten() for one in basis], 1).double()
    root_KK = torch.linalg.cholesky(gram_KK.double())
    weighted = (map_PQ.view(24, 16, 32).transpose(1, 2) @ root_KK).transpose(1, 2).reshape(-1, 32)
    exact = torch.linalg.lstsq(weighted, (w_NK.double() @ root_KK).reshape(-1, 1), driver="gelsd").solution

    def loss(books):
        wrong_NK = w_NK.double() - (map_PQ @ books.double().reshape(-1)).view(24, 16)
        return float(((wrong_NK @ gram_KK.double()) * wrong_NK).sum())

    assert loss(found) <= loss(exact) * 1.001


def test_recode_comes_nearer_and_keeps_to_its_share():
    w_NK, x_TK = correlated_layer()
    packed = aqlm.solve(w_NK, statistics(x_TK), aqlm.Config(**SMALL))
    target_NK = layouts.unpack(packed) + 0.01 * torch.randn(48, 96, generator=torch.Generator().manual_seed(3))
    far = (layouts.unpack(packed) - target_NK).norm()
    made, changed = recode(packed, target_NK, 0.1)
    layouts.check(made)
    groups = (additive.expand(made).codes_NJM != additive.expand(packed).codes_NJM).any(-1)
    assert 0 < changed == int(groups.sum()) <= int(0.1 * groups.numel())
    assert (layouts.unpack(made) - target_NK).norm() < far
    assert torch.equal(made.planes["codebooks"], packed.planes["codebooks"])
    assert recode(packed, layouts.unpack(packed), 1.0)[1] == 0
    assert recode(packed, target_NK, 0.0) == (packed, 0)
    with pytest.raises(MethodError, match="Allowed: 0 to 1"):
        recode(packed, target_NK, 1.5)


def test_bad_input_is_refused():
    for options in (
        {"codebooks": 0}, {"code_bits": 17}, {"group_size": 0}, {"beam_width": 0}, {"rounds": -1}, {"tolerance": -0.1},
        {"damping": math.inf}, {"lengthen": 1.5},
    ):  # fmt: skip
        with pytest.raises(MethodError, match="Allowed"):
            aqlm.Config(**options)
    w_NK, x_TK = correlated_layer()
    with pytest.raises(MethodError, match="group_size=10 does not divide in_features=96"):
        aqlm.check((48, 96), aqlm.Config(group_size=10))
    w_NK[1, 3] = torch.nan
    with pytest.raises(MethodError, match="1 of 4608 weights are NaN"):
        aqlm.solve(w_NK, statistics(x_TK), aqlm.Config())
