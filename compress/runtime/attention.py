"""Attention of one token on the CPU: the queries that share keys stand side by side.

Without a mask transformers' `sdpa` leaves grouped queries to torch, whose CPU kernel then goes through the keys for
each query by itself: 16 of 53 ms a token of a model with a billion parameters after 512 tokens of prompt.

Shape letters: B batch, H heads, G heads that share keys, S keys, D of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "compress_sdpa"
_OTHERWISE = ("position_bias", "softcap", "cache")
"""Arguments that are left to transformers."""


def forward(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Returns the attention [B, 1, H, D] of one token without a mask; everything else as transformers has it.

    query [B, H, 1, D]; key and value [B, H/G, S, D].
    """
    batch, heads, tokens, size = query.shape
    shared = heads // key.shape[1]
    plain = attention_mask is None and not dropout and all(options.get(name) is None for name in _OTHERWISE)
    if tokens != 1 or shared == 1 or not plain or query.device.type != "cpu":
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return found
    side_by_side = query.reshape(batch, heads // shared, shared, size)
    attended = torch.nn.functional.scaled_dot_product_attention(side_by_side, key, value, scale=scaling)
    return attended.reshape(batch, 1, heads, value.shape[-1]), None


def install(model: Any) -> None:
    """Lets a model that attends with `sdpa` attend with this; one of several configurations is left as it is."""
    config = model.config
    if config._attn_implementation == "sdpa" and not config.sub_configs and model._can_set_attn_implementation():
        AttentionInterface.register(NAME, forward)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
