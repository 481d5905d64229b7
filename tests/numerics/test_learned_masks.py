"""Learned masks: all patterns, a prior that is the likeliest, draws that become sure."""

import math

import pytest
import torch

from compress.errors import MethodError
from compress.numerics import learned_masks, nm


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n,m", [(2, 4), (1, 4), (4, 8)])
def test_patterns_are_all_there_are(n, m):
    found = learned_masks.patterns(n, m)
    assert found.shape == (math.comb(m, n), m) and len(set(map(tuple, found.tolist()))) == len(found)
    assert bool((found.sum(-1) == n).all())


def test_too_many_patterns_are_refused():
    with pytest.raises(MethodError, match="8 of 16, which have 12870 patterns"):
        learned_masks.patterns(8, 16)


@pytest.mark.parametrize("n,m", [(2, 4), (4, 8)])
def test_the_prior_is_mostly_the_first_choice(n, m):
    mask_NK = nm.mask_nm(torch.randn(64, 4 * m, generator=seeded()), n, m)
    patterns_Pm = learned_masks.patterns(n, m)
    logits_NGP = learned_masks.logits_from(mask_NK, patterns_Pm, seeded())
    chosen_NK = learned_masks.chosen(logits_NGP, patterns_Pm)
    assert bool((chosen_NK.view(64, -1, m).sum(-1) == n).all())
    assert float((chosen_NK & mask_NK).sum() / mask_NK.sum()) > 0.9
    assert abs(float(logits_NGP.mean())) < 0.002


def test_draws_become_sure_and_carry_a_gradient():
    patterns_Pm = learned_masks.patterns(2, 4)
    logits_NGP = (0.1 * torch.randn(8, 3, 6, generator=seeded())).requires_grad_()
    early, late = (
        learned_masks.drawn(logits_NGP, patterns_Pm, learned_masks.KAPPA[end], learned_masks.TAU[end], seeded())
        for end in (0, 1)
    )
    assert early.shape == (8, 12)
    for mask_NK in (early, late):
        torch.testing.assert_close(mask_NK.view(8, 3, 4).sum(-1), torch.full((8, 3), 2.0))
    sure = ((late < 0.01) | (late > 0.99)).float().mean()
    assert sure > 0.95 > ((early < 0.01) | (early > 0.99)).float().mean()
    assert float((late.round().bool() == learned_masks.chosen(logits_NGP, patterns_Pm)).float().mean()) > 0.95
    early.square().sum().backward()
    assert float(logits_NGP.grad.abs().max()) > 0


def test_schedules_are_linear():
    assert [learned_masks.at((4.0, 1.0), step, 4) for step in range(4)] == pytest.approx([4, 3, 2, 1])
