"""Token ids behind the hidden states come back whole, also from bfloat16, and count in no norm."""

from __future__ import annotations

import pytest
import torch

from compress.models.walking import token_ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ids_and_hidden_states_come_back(dtype: torch.dtype) -> None:
    ids_BT = torch.tensor([[0, 1, 255, 256], [65_535, 65_536, 262_143, (1 << 24) - 1]])
    hidden_BTNH = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    state_BTH = token_ids.beside(hidden_BTNH, ids_BT)
    hidden_BTH, again_BT = token_ids.split_off(state_BTH)
    assert torch.equal(again_BT, ids_BT)
    assert torch.equal(hidden_BTH, hidden_BTNH.flatten(2))
    assert state_BTH.float().square().sum() == hidden_BTNH.float().square().sum()
