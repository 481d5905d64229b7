"""Tiny random models of every architecture that is supported, as Hugging Face folders with a small tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

VOCAB = 96
CONTEXT = 64

_COMMON: dict[str, Any] = dict(
    vocab_size=VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False
)
_SIZES = _COMMON | dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=CONTEXT
)
_GROUPED = _SIZES | dict(num_key_value_heads=2)
_LLAMA = _GROUPED | dict(head_dim=8)
_LLAMA3_ROPE = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16,
)  # fmt: skip
_GEMMA = _LLAMA | dict(sliding_window=7, tie_word_embeddings=True, query_pre_attn_scalar=8)
_MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16)
_FALCON = {key: value for key, value in _SIZES.items() if key != "intermediate_size"}

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _LLAMA),
    "llama-tied": ("llama", _LLAMA | dict(tie_word_embeddings=True)),
    "llama3-rope": ("llama", _LLAMA | dict(rope_parameters=_LLAMA3_ROPE)),
    "mistral": ("mistral", _LLAMA | dict(sliding_window=7)),
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", _LLAMA),
    "gemma2": ("gemma2", _GEMMA),
    "gemma3": ("gemma3_text", _GEMMA | dict(num_hidden_layers=7)),  # the sixth block sees the whole context
    "phi3": ("phi3", _GROUPED),
    "opt": ("opt", _SIZES | dict(ffn_dim=48, word_embed_proj_dim=16, tie_word_embeddings=True)),
    "gpt2": ("gpt2", _COMMON | dict(n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT, tie_word_embeddings=True)),
    "bigcode": ("gpt_bigcode", _COMMON | dict(n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT)),
    "bigcode-heads": (
        "gpt_bigcode",
        _COMMON | dict(n_embd=32, n_layer=3, n_head=4, n_positions=CONTEXT, multi_query=False),
    ),
    "gpt-neox": ("gpt_neox", _SIZES),
    "xglm": ("xglm", _COMMON | dict(d_model=32, num_layers=3, attention_heads=4, ffn_dim=48)),
    "falcon-7b": ("falcon", _FALCON | dict(multi_query=True, parallel_attn=True, bias=False, alibi=False)),
    "falcon-40b": ("falcon", _FALCON | dict(new_decoder_architecture=True, num_kv_heads=2, bias=False, alibi=False)),
    "falcon-alibi": ("falcon", _FALCON | dict(alibi=True, multi_query=False, parallel_attn=False, bias=True)),
    "mixtral": ("mixtral", _LLAMA | dict(num_local_experts=4, num_experts_per_tok=2, num_hidden_layers=2)),
    "qwen3-moe": ("qwen3_moe", _LLAMA | _MOE | dict(mlp_only_layers=[1])),
    "qwen2-moe": ("qwen2_moe", _GROUPED | _MOE | dict(shared_expert_intermediate_size=24)),
}
"""Name -> (model_type, configuration). The names are the keys of `save_tiny`."""

_OTHER_MOE = _LLAMA | dict(num_local_experts=4, num_experts_per_tok=2, num_hidden_layers=2)
EXPERT_LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt-oss": ("gpt_oss", _OTHER_MOE | dict(sliding_window=7)),  # [E, H, 2I], interleaved, with biases
    "llama4": (  # [E, H, 2I], outside of the experts interface, every token through every expert
        "llama4_text",
        _OTHER_MOE | dict(num_experts_per_tok=1, intermediate_size_mlp=40, interleave_moe_layer_step=2),
    ),
    "jetmoe": ("jetmoe", _OTHER_MOE | dict(kv_channels=8)),  # one module for each matrix, in the attention too
    "dbrx": (  # [E · I, H]
        "dbrx",
        _COMMON
        | dict(
            d_model=32, n_heads=4, n_layers=2, max_seq_len=CONTEXT,
            attn_config=dict(kv_n_heads=2, clip_qkv=8.0, rope_theta=1e4),
            ffn_config=dict(ffn_hidden_size=24, moe_num_experts=4, moe_top_k=2, hidden_size=32),
        ),
    ),
    "nemotron-h": (  # no gate
        "nemotron_h",
        _LLAMA
        | dict(
            layers_block_type=["attention", "moe"], n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
            moe_intermediate_size=16, moe_shared_expert_intermediate_size=24,
        ),
    ),
    "granitemoe": ("granitemoe", _OTHER_MOE),
    "longcat": (  # experts that do nothing have matrices of one of the two stacks
        "longcat_flash",
        _SIZES
        | dict(
            num_layers=2, ffn_hidden_size=24, q_lora_rank=16, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=8,
            v_head_dim=8, head_dim=8, moe_topk=2, n_routed_experts=4, zero_expert_num=2, expert_ffn_hidden_size=16,
        ),
    ),
}  # fmt: skip
"""As `TINY`: mixtures of experts in every other layout."""


def tiny_model(kind: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, **overrides: Any) -> Any:
    """Returns a tiny random causal language model in evaluation mode; `overrides` go into its configuration.

    Every parameter is random, biases and norms too, and large enough that each of them shows in the logits.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, values = (TINY | EXPERT_LAYOUTS)[kind]
    config = AutoConfig.for_model(model_type, **(values | overrides))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(0.1 * noise)
    return model.to(dtype)


def tiny_tokenizer() -> Any:
    """Returns a word-level tokenizer of `VOCAB` words: `<pad> <bos> <eos> <unk>`, then `w4 w5 …`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{number}" for number in range(4, VOCAB))]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def tiny_text(words: int = 4000, *, seed: int = 0) -> str:
    """Returns random words that the tiny tokenizer knows."""
    places = torch.randint(4, VOCAB, (words,), generator=torch.Generator().manual_seed(seed))
    return " ".join(f"w{place}" for place in places.tolist())


def tiny_tokens(samples: int = 5, length: int = 12, *, seed: int = 0) -> torch.Tensor:
    """Returns random token ids, int64 [samples, length]."""
    return torch.randint(4, VOCAB, (samples, length), generator=torch.Generator().manual_seed(seed))


def save_tokens(folder: Path, tokens: torch.Tensor | None = None) -> Path:
    """Writes a file of token ids, by default a text of 3000, to calibrate with; returns its path in `folder`."""
    path = folder / "tokens.safetensors"
    save_file({"tokens": (tiny_tokens(1, 3000)[0] if tokens is None else tokens).contiguous()}, path)
    return path


def save_tiny(
    folder: Path,
    kind: str = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    **overrides: Any,
) -> Path:
    """Saves a tiny model with its tokenizer into `folder` and returns the folder.

    `kind` is a key of `TINY` or of `EXPERT_LAYOUTS`. With `shards` above one the tensors are dealt out to that many
    files, with an index.
    """
    model = tiny_model(kind, seed=seed, dtype=dtype, **overrides)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    if shards > 1:
        _deal_out(folder, shards)
    return folder


def _deal_out(folder: Path, shards: int) -> None:
    single = folder / "model.safetensors"
    tensors = load_file(single)
    single.unlink()
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for key in sorted(tensors)[number::shards]}
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
