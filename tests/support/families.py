"""Tiny models of families whose modules do something out of the ordinary, and small models written for one test."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

VOCABULARY = 96
_BASE: dict[str, Any] = dict(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
_SMALL_VISION = dict(hidden_size=16, intermediate_size=24, num_attention_heads=2, image_size=16, patch_size=8)
FAMILIES: dict[str, dict[str, Any]] = {
    "arcee": _BASE | dict(num_key_value_heads=2, head_dim=8),
    "afmoe": _BASE
    | dict(num_key_value_heads=2, head_dim=8, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2),
    "bert": _BASE | dict(is_decoder=True),
    "codegen": dict(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4),
    "diffllama": _BASE | dict(num_key_value_heads=2, head_dim=8),
    "falcon_h1": _BASE
    | dict(
        num_key_value_heads=2, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1,
        ssm_multipliers=[0.5, 0.25, 2.0, 3.0, 4.0],
    ),
    "gemma3": dict(
        text_config=_BASE | dict(num_key_value_heads=2, head_dim=8, sliding_window=8),
        vision_config=_SMALL_VISION | dict(model_type="siglip_vision_model", num_hidden_layers=3),
        mm_tokens_per_image=4,
    ),
    "gemma4_text": _BASE
    | dict(
        num_key_value_heads=2, head_dim=8, global_head_dim=8, sliding_window=8, num_kv_shared_layers=0,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCABULARY,
    ),
    "gemma4_text-shared": dict(
        _BASE, num_hidden_layers=4, num_key_value_heads=2, head_dim=8, global_head_dim=16, sliding_window=8,
        num_kv_shared_layers=2, hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCABULARY,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "gemma3n_text": dict(
        _BASE, num_hidden_layers=4, num_key_value_heads=2, head_dim=8, sliding_window=8, num_kv_shared_layers=2,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCABULARY, laurel_rank=4, altup_num_inputs=3,
        layer_types=["sliding_attention", "full_attention"] * 2, activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0],
    ),
    "llava": dict(
        text_config=_BASE | dict(model_type="llama", num_key_value_heads=2),
        vision_config=_SMALL_VISION | dict(model_type="clip_vision_model", num_hidden_layers=3),
    ),
    "zamba2": _BASE
    | dict(
        num_hidden_layers=4, layers_block_type=["mamba", "hybrid", "mamba", "hybrid"], num_key_value_heads=4,
        n_mamba_heads=4, mamba_d_state=8, mamba_ngroups=1, mamba_expand=2, num_mem_blocks=1, chunk_size=8,
    ),
    "git": _BASE | dict(vision_config=_SMALL_VISION | dict(num_hidden_layers=2)),
    "idefics3": dict(
        text_config=_BASE | dict(model_type="llama", num_key_value_heads=2), image_token_id=95, scale_factor=1,
        vision_config=_SMALL_VISION | dict(num_hidden_layers=1), pad_token_id=0,
    ),
    "hrm_text": _BASE | dict(num_key_value_heads=2, head_dim=8, num_layers_per_stack=2, H_cycles=1, L_cycles=2),
    "mamba": _BASE | dict(state_size=4, time_step_rank=4),
    "openai-gpt": dict(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "prophetnet": dict(
        vocab_size=VOCABULARY, hidden_size=32, num_encoder_layers=1, num_decoder_layers=2, decoder_ffn_dim=48,
        encoder_ffn_dim=48, num_decoder_attention_heads=4, num_encoder_attention_heads=4, is_decoder=True,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
    "qwen2_audio": dict(
        text_config=_BASE | dict(model_type="qwen2", num_key_value_heads=2),
        audio_config=dict(
            model_type="qwen2_audio_encoder", d_model=16, encoder_layers=1, encoder_attention_heads=2,
            encoder_ffn_dim=24, num_mel_bins=8, max_source_positions=16,
        ),
    ),
    "reformer": _BASE
    | dict(
        is_decoder=True, attn_layers=["local", "lsh"], axial_pos_shape=[8, 8], axial_pos_embds_dim=[16, 16],
        attention_head_size=8, feed_forward_size=48, lsh_attn_chunk_length=8, local_attn_chunk_length=8, num_buckets=4,
    ),
    "rwkv": _BASE | dict(attention_hidden_size=32, context_length=64),
    "youtu": _BASE
    | dict(
        num_key_value_heads=4, head_dim=8, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    "xlnet": dict(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=48),
}  # fmt: skip
"""Model type, maybe with `-shared` (keys and values) behind it -> configuration."""


def save_family(model_type: str, folder: Path, **overrides: Any) -> Any:
    """Saves a tiny random model of the family into `folder`; returns it as transformers loads it from there."""
    from transformers import AutoConfig

    from compress.models.auto_class import auto_class

    config = AutoConfig.for_model(model_type.partition("-shared")[0], **(FAMILIES[model_type] | overrides))
    torch.manual_seed(0)
    auto = auto_class(config)
    model = auto.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.1 * noise)
    model.save_pretrained(folder)
    return auto.from_pretrained(folder, dtype=torch.float32).eval()


class ToyBlock(nn.Module):
    """A block with two linears; `style` says what is unusual about it."""

    def __init__(self, style: str = "") -> None:
        super().__init__()
        self.style = style
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, hidden: torch.Tensor, mask: Any = None, extra: Any = None) -> Any:
        if self.style == "reads the dtype of up":
            hidden = hidden.to(self.up.weight.dtype)
        if self.style == "reads the shape of up":
            hidden = hidden[..., : self.up.weight.shape[1]]
        inner = hidden @ self.up.weight.T + self.up.bias if self.style == "reads up" else self.up(hidden)
        output = hidden + self.down(inner.relu())
        if self.style == "fails":
            raise IndexError("no such expert")
        if self.style == "narrow":
            output = output[..., :4]
        return (output, inner) if self.style in ("returns state", "uses state") else output


class ToyModel(nn.Module):
    """A language model of three blocks that are run as `style` says."""

    def __init__(self, style: str = "", block_style: str = "") -> None:
        super().__init__()
        self.style = style
        self.embed, self.head = nn.Embedding(16, 8), nn.Linear(8, 16, bias=False)
        self.blocks = nn.ModuleList([ToyBlock(block_style) for _ in range(3)])

    def get_output_embeddings(self) -> nn.Module:
        """Returns the head."""
        return self.head

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        """Returns the logits."""
        first = hidden = self.embed(input_ids)
        state = None
        for index in {"reversed": (2, 1, 0), "partial": (0, 1), "twice": (0, 0, 1, 2), "looped": (0, 1, 2, 0)}.get(
            self.style, (0, 1, 2)
        ):
            extra = {"first": first, "state": state}.get(self.style)
            hidden = self.blocks[index](hidden.transpose(0, 1) if self.style == "transposed" else hidden, extra=extra)
            if isinstance(hidden, tuple):
                hidden, state = hidden
            if self.style == "scaled":
                hidden = hidden / 2
            if self.style == "rescales":
                self.blocks[1].down.weight.div_(1)
        if self.style == "skip":
            hidden = hidden + first
        return SimpleNamespace(logits=self.head(hidden))
