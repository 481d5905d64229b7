"""One-shot n:m sparsity: the right weights are kept, each method beats the one that knows less, masks hold."""

from __future__ import annotations

import pytest
import torch

from compress.calibration.stats import LayerStats
from compress.errors import MethodError
from compress.format import layouts
from compress.format.layouts import sparse_nm
from compress.methods import magnitude, sparsegpt, wanda
from tests.support.correlated import correlated_layer, output_error, statistics

METHODS = [magnitude, wanda, sparsegpt]
each = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__.rpartition(".")[2])


def test_each_beats_the_one_that_knows_less():
    for rows, width in ((48, 96), (96, 256)):
        w_NK, x_TK = correlated_layer(rows, width)
        errors = [output_error(w_NK, x_TK, m.solve(w_NK, statistics(x_TK), m.Config())) for m in METHODS]
        assert errors[1] < 0.97 * errors[0] and errors[2] < 0.8 * errors[1]


@each
@pytest.mark.parametrize("n,m", [(2, 4), (1, 4), (4, 8), (5, 6)])
def test_masks_hold_and_bits_are_exact(method, n, m):
    w_NK, x_TK = correlated_layer(32, 192)
    packed = method.solve(w_NK, statistics(x_TK), method.Config(n=n, m=m))
    layouts.check(packed)
    mask_NK = sparse_nm.mask(packed)
    assert (mask_NK.view(32, -1, m).sum(-1) == n).all()
    assert not layouts.unpack(packed)[~mask_NK].any()
    if (n, m) == (2, 4):
        assert packed.bits_per_weight == 9.0


@each
def test_it_is_pure_and_repeatable(method):
    w_NK, x_TK = correlated_layer()
    before, stats = w_NK.clone(), statistics(x_TK)
    first, second = (method.solve(w_NK, stats, method.Config()) for _ in range(2))
    assert w_NK.equal(before) and stats.gram_KK.equal(statistics(x_TK).gram_KK)
    assert all(first.planes[name].equal(second.planes[name]) for name in first.planes)


@each
def test_what_is_sparse_already_stays_exact(method):
    w_NK, x_TK = correlated_layer()
    sparse_NK = layouts.unpack(magnitude.solve(w_NK, None, magnitude.Config()))
    packed = method.solve(sparse_NK, statistics(x_TK), method.Config())
    assert torch.equal(layouts.unpack(packed), sparse_NK)


@each
def test_without_tokens_it_is_magnitude(method):
    w_NK, _ = correlated_layer()
    packed = method.solve(w_NK, LayerStats.empty(w_NK.shape[1]), method.Config())
    plain = magnitude.solve(w_NK, None, magnitude.Config())
    assert all(torch.equal(plane, plain.planes[name]) for name, plane in packed.planes.items())


def test_wanda_keeps_weights_by_what_their_input_brings():
    w_NK = torch.tensor([[3.0, 2.0, 1.0, 0.5]])
    x_TK = torch.tensor([[1.0, 1.0, 0.0, 100.0], [0.0, 1.0, 5.0, 0.0]])
    packed = wanda.solve(w_NK, statistics(x_TK), wanda.Config())
    assert layouts.unpack(packed).tolist() == [[0, 0, 1, 0.5]]  # 3·1, 2·√2, 1·5, ½·100


def test_sparsegpt_is_the_sweep_of_the_paper():
    """Column by column with the inverse of what is left, as the paper defines it, in float64."""
    w_NK, x_TK = correlated_layer(16, 48)
    packed = sparsegpt.solve(w_NK, statistics(x_TK), sparsegpt.Config(damping=0.01))
    gram_KK = x_TK.double().T @ x_TK.double()
    gram_KK += 0.01 * gram_KK.diagonal().mean() * torch.eye(48)
    left_NK = w_NK.double().clone()
    mask_NK = torch.zeros(16, 48, dtype=torch.bool)
    for column in range(48):
        if column % 4 == 0:
            group = range(column, column + 4)
            share_g = torch.stack([torch.linalg.inv(gram_KK[j:, j:])[0, 0] for j in group])
            best_Ng = (left_NK[:, column : column + 4].square() / share_g).topk(2).indices
            mask_NK[:, column : column + 4].scatter_(1, best_Ng, True)
        inverse = torch.linalg.inv(gram_KK[column:, column:])
        stored_N = (left_NK[:, column] * mask_NK[:, column]).bfloat16().double()
        left_NK[:, column:] -= ((left_NK[:, column] - stored_N) / inverse[0, 0])[:, None] * inverse[0]
        left_NK[:, column] = stored_N
    assert torch.equal(sparse_nm.mask(packed), mask_NK)
    torch.testing.assert_close(layouts.unpack(packed), left_NK.float(), rtol=2**-7, atol=1e-6)


def test_dead_inputs_are_pruned_first():
    w_NK, x_TK = correlated_layer()
    dead = torch.arange(0, 96, 4)
    x_TK[:, dead] = 0
    w_NK[:, dead] = 9.0
    for method in (wanda, sparsegpt):
        assert not layouts.unpack(method.solve(w_NK, statistics(x_TK), method.Config()))[:, dead].any()
        kept = layouts.unpack(method.solve(w_NK, statistics(x_TK), method.Config(n=7, m=8)))
        assert (kept[:, dead] == 9.0).any() and output_error(
            w_NK, x_TK, magnitude.solve(w_NK, None, magnitude.Config())
        )


@each
def test_what_cannot_be_is_refused(method):
    for options in ({"n": 0}, {"n": 4}, {"m": 512}):
        with pytest.raises(MethodError, match="1 ≤ n < m ≤ 256"):
            method.Config(**options)
    with pytest.raises(MethodError, match=r"m=4 does not divide in_features=30.*Allowed: 2.*--skip"):
        method.check((8, 30), method.Config())
    with pytest.raises(MethodError, match="NaN"):
        method.solve(torch.full((8, 8), torch.nan), LayerStats.empty(8), method.Config())
