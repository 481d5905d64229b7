"""Losses equal their definitions, whatever the stretches; the cached teacher is a bound on the whole one."""

import pytest
import torch
from torch.nn import functional

from compress.errors import MethodError
from compress.training import losses

T, V = 7, 33


def logits(seed: int) -> torch.Tensor:
    return 2 * torch.randn(T, V, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[None, 2 * V], ids=["whole", "stretches of two"])
def stretch(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(losses, "CHUNK_LOGITS", request.param)


def by_hand(p_TV: torch.Tensor, q_TV: torch.Tensor, temperature: float) -> torch.Tensor:
    p_TV, q_TV = ((x / temperature).softmax(-1) for x in (p_TV, q_TV))
    return temperature**2 * (p_TV * (p_TV / q_TV).log()).sum()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_divergences_and_their_gradients_are_those_of_the_definition(stretch, temperature):
    wanted = logits(1)
    for loss, hand in (
        (losses.forward_kl, lambda found: by_hand(wanted, found, temperature)),
        (losses.reverse_kl, lambda found: by_hand(found, wanted, temperature)),
    ):
        found, other = (logits(0).requires_grad_() for _ in range(2))
        loss(found, wanted, temperature).backward()
        hand(other).backward()
        torch.testing.assert_close(loss(found, wanted, temperature), hand(other), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_a_temperature_keeps_the_size_of_the_gradient():
    """For flat distributions τ² makes up for what the temperature takes."""
    sizes = []
    for temperature in (1.0, 4.0):
        found = (0.01 * logits(0)).requires_grad_()
        losses.forward_kl(found, 0.01 * logits(1), temperature).backward()
        sizes.append(float(found.grad.norm()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


def test_cross_entropy(stretch):
    found, tokens = logits(0), torch.arange(T)
    torch.testing.assert_close(
        losses.cross_entropy(found, tokens), functional.cross_entropy(found, tokens, reduction="sum")
    )


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("reverse", [False, True])
def test_cached_shares_bound_the_divergence_and_reach_it(stretch, temperature, reverse):
    found, wanted = logits(0), logits(1)
    whole = float((losses.reverse_kl if reverse else losses.forward_kl)(found, wanted, temperature))
    bounds = [
        float(losses.top_kl(found, *losses.top_log_probs(wanted, k, temperature), temperature, reverse=reverse))
        for k in (1, 4, 16, V - 1)
    ]
    assert bounds == sorted(bounds) and bounds[0] < whole
    assert bounds[-1] == pytest.approx(whole, rel=1e-5)


def test_the_bucket_of_all_others_completes_the_shares():
    places, shares = losses.top_log_probs(logits(0), 5, 1.0)
    assert places.dtype == torch.int32 and shares.shape == (T, 6)
    torch.testing.assert_close(shares.exp().sum(-1), torch.ones(T))
    # a student that is the teacher loses nothing: cut off and renormalised it would
    assert float(losses.top_kl(logits(0), places, shares, 1.0, reverse=False)) == pytest.approx(0, abs=1e-5)


def test_hidden_distance_is_relative_to_the_teacher():
    wanted = [torch.randn(2, 3, 8), 100 * torch.randn(2, 3, 8)]
    assert float(losses.hidden_distance([0 * w for w in wanted], wanted)) == pytest.approx(6.0, rel=1e-4)
    with pytest.raises(MethodError, match="1 layers, 8 wide, against 2"):
        losses.hidden_distance(wanted[:1], wanted)
    with pytest.raises(MethodError, match="4 wide, against 2 of 8"):
        losses.hidden_distance([w[..., :4] for w in wanted], wanted)


def test_half_precision_logits_are_judged_in_float32():
    found = logits(0).bfloat16()
    assert losses.forward_kl(found, found.clone()).dtype == torch.float32
    assert float(losses.forward_kl(found, found.clone())) == 0
