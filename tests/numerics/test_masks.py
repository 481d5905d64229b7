"""Trained masks: gradients reach what is pruned, the decay has the right sign, SLoRB starts at the least squares."""

import pytest
import torch

from compress.errors import MethodError
from compress.numerics import masks, nm


def layer() -> tuple[torch.Tensor, torch.Tensor]:
    w_NK = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    return w_NK, nm.mask_nm(w_NK.abs(), 2, 4)


def test_the_gradient_goes_straight_through_the_mask():
    w_NK, mask_NK = layer()
    w_NK.requires_grad_()
    out_NK = masks.masked(w_NK, mask_NK)
    assert torch.equal(out_NK, w_NK * mask_NK)
    wanted_NK = torch.randn(6, 16)
    out_NK.backward(wanted_NK)
    assert torch.equal(w_NK.grad, wanted_NK)


def test_the_decay_shrinks_what_is_pruned_and_nothing_else():
    """With the complement of an integer mask pruned weights grow, and kept ones change."""
    w_NK, mask_NK = layer()
    before_NK, root_NK = w_NK.clone(), torch.full_like(w_NK, 0.5)
    for _ in range(50):
        masks.decay(w_NK, mask_NK, root_NK, 0.01)
    assert torch.equal(w_NK[mask_NK], before_NK[mask_NK])
    torch.testing.assert_close(w_NK[~mask_NK], before_NK[~mask_NK] * (1 - 0.01 / 0.5) ** 50)


def test_the_decay_stops_at_zero():
    w_NK, mask_NK = layer()
    masks.decay(w_NK, mask_NK, torch.zeros_like(w_NK), 0.01)
    assert bool((w_NK[~mask_NK] == 0).all())


def test_the_decay_rises_linearly_and_stays():
    assert [masks.decay_at(step, 10, 2.0, 0.5) for step in range(10)] == pytest.approx([0.4, 0.8, 1.2, 1.6, *[2.0] * 6])
    assert masks.decay_at(0, 10, 2.0, 0.0) == 2.0


def test_flips_are_counted_once():
    before_NK = torch.tensor([[True, True, False, False]])
    assert masks.flipped(before_NK, torch.tensor([[True, False, True, False]])) == 1
    assert masks.flipped(before_NK, before_NK) == 0


def test_slorb_starts_at_the_least_squares():
    w_NK, mask_NK = layer()
    left_Ns, right_sK = masks.slorb_start(w_NK, mask_NK, 8)
    assert left_Ns.shape == (6, 2) and right_sK.shape == (2, 16)
    wanted_NK = w_NK * ~mask_NK
    # the best left factor for this right one, by normal equations
    best_Ns = torch.linalg.lstsq(right_sK.T, wanted_NK.T).solution.T
    torch.testing.assert_close(left_Ns, best_Ns)
    with pytest.raises(MethodError, match="slorb=5 for in_features=16"):
        masks.slorb_start(w_NK, mask_NK, 5)
