"""The held-out draw and the order of an epoch follow from the seed; a single sequence is refused."""

import pytest
import torch

from compress.errors import CalibrationError
from compress.tuning import sequences


@pytest.mark.parametrize("count", [0, 1])
def test_one_sequence_is_refused(count):
    text = rf"^block: training needs at least 2 sequences \(1 is held out\); got {count}\. Raise --samples to 2 or more"
    with pytest.raises(CalibrationError, match=text):
        sequences.check_enough(count, layer="block")
    sequences.check_enough(2)


@pytest.mark.parametrize("count,share,held_out", [(2, 0.125, 1), (8, 0.125, 1), (24, 0.125, 3), (3, 0.99, 2)])
def test_held_out_sequences_are_a_part_of_their_own(count, share, held_out):
    train_S, held_S = sequences.split_held_out(count, share, seed=3)
    assert held_S.numel() == held_out
    assert torch.equal(torch.cat([train_S, held_S]).sort().values, torch.arange(count))
    assert torch.equal(sequences.epoch_order(1, train_S, 3).sort().values, train_S)
    assert torch.equal(sequences.epoch_order(1, train_S, 3), sequences.epoch_order(1, train_S, 3))
