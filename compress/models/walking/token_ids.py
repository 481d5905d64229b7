"""Keeps the token ids of a text beside its hidden states, for models whose blocks receive arguments made of the tokens.

Per-layer embeddings, the embedding itself (Zamba), the ids (DeepSeek V4): such arguments are recomputed from the ids
whenever a micro-batch runs through a block. The ids are three more channels of the hidden states, so that they are
sliced, moved, stored and resumed with them. Each channel is one byte of the id times 2⁻¹⁰⁰: exact in float32 and in
bfloat16, and too small to count in any norm.

Shape letters: B samples, T tokens, H hidden.
"""

from __future__ import annotations

import torch

CHANNELS = 3
"""Channels that the ids of one token take: ids below 2²⁴."""
_UNIT = 2.0**-100


def beside(hidden_BTH: torch.Tensor, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Returns the hidden states with the ids behind them, [B, T, H + CHANNELS]; further dimensions are flattened."""
    digits = [(tokens_BT >> (8 * place)) & 255 for place in range(CHANNELS)]
    channels = torch.stack(digits, dim=-1).to(hidden_BTH) * _UNIT
    return torch.cat([hidden_BTH.flatten(2), channels], dim=-1)


def split_off(state_BTH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the hidden states [B, T, H] and the ids, int64 [B, T], that `beside` put behind them."""
    hidden_BTH, channels = state_BTH[..., :-CHANNELS], state_BTH[..., -CHANNELS:]
    digits = (channels.detach() / _UNIT).long()
    places = [digits[..., place] << (8 * place) for place in range(CHANNELS)]
    return hidden_BTH, torch.stack(places).sum(0)
