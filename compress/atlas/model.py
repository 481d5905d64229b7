"""The shape of the bundled model, and its export as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def build(tokenizer: PreTrainedTokenizerFast, seed: int, **changes: Any) -> LlamaForCausalLM:
    """A freshly initialised model in fp32; `changes` override `SHAPE`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **(SHAPE | changes),
    )
    return LlamaForCausalLM(config)


def export(
    model: LlamaForCausalLM, masters: dict[str, torch.Tensor], tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Writes config, bf16 weights and tokenizer. `masters` are the fp32 weights by parameter name."""
    from transformers import LlamaForCausalLM

    shipped = LlamaForCausalLM(model.config)
    shipped.load_state_dict(masters, strict=False)
    shipped.tie_weights()
    shipped.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
