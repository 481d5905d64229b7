"""Holds tiny configurations of every family: two layers, 64 wide, with the vocabulary of the bundled tokenizer."""

from __future__ import annotations

import inspect
from typing import Any

_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
SIZES: dict[str, Any] = dict(
    hidden_size=64, d_model=64, n_embd=64, dim=64, embed_dim=64, intermediate_size=96, ffn_dim=96, n_inner=96, d_ff=96,
    encoder_ffn_dim=96, decoder_ffn_dim=96, ffn_hidden_size=96, num_hidden_layers=2, num_layers=2, n_layer=2,
    n_layers=2, encoder_layers=1, decoder_layers=2, num_encoder_layers=1, num_decoder_layers=2, num_attention_heads=4,
    n_head=4, n_heads=4, num_heads=4, encoder_attention_heads=4, decoder_attention_heads=4, num_key_value_heads=2,
    num_kv_heads=2, head_dim=16, max_position_embeddings=256, n_positions=256, n_ctx=256, context_length=256,
    moe_intermediate_size=32, shared_expert_intermediate_size=32, num_experts=4, num_local_experts=4,
    n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, n_group=1, topk_group=1, num_experts_per_token=2,
    q_lora_rank=32, kv_lora_rank=32, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16, qk_head_dim=24,
    sliding_window=16, attention_window=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, index_topk=8,
    index_n_heads=2, index_head_dim=16, state_size=8, mamba_d_state=16, mamba_n_heads=8, mamba_d_head=16,
    mamba_n_groups=1, mamba_expand=2, mamba_dt_rank=8, linear_num_key_heads=2, linear_num_value_heads=4,
    linear_key_head_dim=16, linear_value_head_dim=16,
)  # fmt: skip
"""What each of these parameters of a configuration class is set to, where the class has it."""

_LATENT: dict[str, Any] = dict(head_dim=8, num_key_value_heads=4)
_BY_KIND = {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")}
_IMAGE_WORDS = {"vocabulary_map": {"<image>": 4, "IMGIMGBS": 5}}
_WIDE = dict(out_hidden_size=64)
_PATTERN: dict[str, Any] = dict(num_hidden_layers=4, layers_block_type=["mamba", "hybrid", "mamba", "hybrid"])


def _for(names: tuple[str, ...], **values: Any) -> dict[str, dict[str, Any]]:
    """The same values for several families."""
    return {name: values for name in names}


OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa",
                     "minicpm3", "youtu"), _LATENT),
    "bamba": dict(attn_layer_indices=[1]),
    "deepseek_v4": dict(o_groups=2, o_lora_rank=16, num_key_value_heads=1),
    "granitemoehybrid": dict(layer_types=["mamba", "attention"]),
    "jamba": dict(attn_layer_period=2, attn_layer_offset=1),
    "longcat_flash": _LATENT | dict(expert_ffn_hidden_size=32, zero_expert_num=2, moe_topk=2),
    "recurrent_gemma": dict(block_types=["recurrent", "attention"]),
    "bailing_hybrid": _LATENT,
    "blt": dict(encoder_hash_byte_group_vocab=500),
    **_for(("blt.encoder_config", "blt.decoder_config"), hidden_size_global=64),
    **_for(("chameleon.vq_config", "emu3.vq_config", "janus.vq_config"), base_channels=32, embed_dim=32,
           latent_channels=32, z_channels=32, channel_multiplier=[1, 2], num_embeddings=64),
    **dict.fromkeys(("chameleon", "emu3"), _IMAGE_WORDS),
    "codegen": dict(rotary_dim=8),
    **_for(("cohere_compass_text", "cohere_compass.text_config"), rope_parameters=_BY_KIND),
    "deepseek_ocr2.text_config": dict(mlp_layer_types=["dense", "sparse"]),
    "diffusion_gemma.text_config": dict(top_k_experts=2),
    "ctrl": dict(dff=96),
    "dbrx": dict(
        attn_config={"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        ffn_config={"hidden_size": 64, "ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    ),
    **_for(("dots3_note_text", "dots3_note.text_config"), num_key_value_heads=4, swa_num_key_value_heads=4),
    "dots3_note.audio_config": dict(adapter_input_size=64, adapter_output_size=64),
    "dots3_note.vision_config": dict(pyramid_num_routed=[0, 2], adapter_in_dim=64, adapter_out_dim=64),
    "ernie4_5_vl_moe.text_config": dict(
        moe_intermediate_size=[32, 32], rope_parameters=_ROPE | {"mrope_section": [3, 3, 2]}
    ),
    "florence2.vision_config": dict(depths=[1, 1], patch_size=[7, 3], patch_stride=[4, 2], patch_padding=[3, 1],
        patch_prenorm=[False, True], embed_dim=[32, 64], num_heads=[4, 4], num_groups=[4, 4], projection_dim=64),
    "fun_asr_nano": dict(adaptor_config=dict(hidden_size=64, num_attention_heads=4, intermediate_size=16,
                                             projector_hidden_size=64)),
    "falcon_h1": dict(mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16),
    **_for(
        ("gemma3n_text", "gemma4_text"), num_hidden_layers=4, num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 2, activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0],
    ),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]]),
    "gptj": dict(rotary_dim=8),
    "got_ocr2.vision_config": dict(mlp_dim=96, image_size=64, output_channels=32, global_attn_indexes=[1]),
    **dict.fromkeys(("glm46v.vision_config", "glm4v.vision_config", "glm4v_moe.vision_config", "glmga.vision_config"),
                    _WIDE | dict(intermediate_size=96)),
    "glm5_next.vision_config": _WIDE | dict(projection_intermediate_size=96),
    "glm5_next.text_config": _LATENT | dict(qk_rope_head_dim=0, index_kpool=4),
    "glm_ocr.vision_config": _WIDE,
    **_for(("glm4v_moe.text_config", "glm_ocr.text_config"),
           rope_parameters=_ROPE | {"mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}),
    "granite4_vision": dict(deepstack_layer_map=[[1, 0]], downsample_rate="4/8"),
    "granite_docling.vision_config": _WIDE,
    "inkling2.vision_config": dict(text_hidden_size=64),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"]),
    "kyutai_speech_to_text": dict(
        num_codebooks=2, codebook_vocab_size=32, audio_pad_token_id=2112, num_key_value_heads=4, ffn_dim=96,
    ),
    "kyutai_speech_to_text.codec_config": dict(upsample_groups=64),
    **{f"{kind}.text_config": _LATENT for kind in ("kimi_k25", "mistral_large4")},
    "kimi_linear": _LATENT,
    "mamba2": dict(num_heads=8, head_dim=16, n_groups=1),
    "moshi": dict(num_key_value_heads=4, audio_vocab_size=64, num_codebooks=2),
    "reformer": dict(
        is_decoder=True, attn_layers=["local", "lsh"], axial_pos_shape=[16, 16], axial_pos_embds_dim=[32, 32],
        attention_head_size=16, feed_forward_size=96, lsh_attn_chunk_length=16, local_attn_chunk_length=16,
        num_buckets=4,
    ),
    **{f"{kind}.text_config": dict(rope_parameters=_ROPE) for kind in (
        "cosmos3_edge", "glm46v", "glm4v", "glmga", "hunyuan_vl", "paddleocr_vl", "qwen2_5_omni_thinker",
        "qwen2_5_vl", "qwen2_vl")},
    "molmo2.adapter_config": dict(vision_feature_layer=[1, 0], text_hidden_size=64),
    "mistral4": _LATENT | dict(rope_parameters={
        "rope_type": "default", "rope_theta": 10000.0, "llama_4_scaling_beta": 0.1,
        "original_max_position_embeddings": 64,
    }),
    **_for(("muse_glimmer", "muse_spark"), projector_hidden_size=64),
    "nemo_speechlm.diarization_config": dict(head_config=dict(audio_hidden_size=64)),
    **_for(("nemotron_h", "nemotron_h_omni.text_config"), moe_shared_expert_intermediate_size=64),
    "nemotron_h_omni": dict(projector_hidden_size=64),
    "muse_spark.audio_config": _WIDE | dict(patch_sizes=[16, 6], hidden_sizes=[16, 32], depths=[1, 1]),
    "nemotron_h_omni.vision_config": dict(video_temporal_patch_size=2),
    **_for(("vibevoice_asr.acoustic_tokenizer_encoder_config", "vibevoice_asr.semantic_tokenizer_encoder_config"),
           num_filters=4, hidden_size=16),
    **_for(("qwen2_5_omni", "qwen3_omni_moe"), enable_audio_output=False),
    "qwen2_5_omni.thinker_config.text_config": dict(rope_parameters=_ROPE),
    "xlstm": dict(qk_dim_factor=1.0),
    "xmod": dict(default_language="en_XX"),
    "zamba": _PATTERN | dict(n_mamba_heads=2, num_key_value_heads=4),
    "zamba2": _PATTERN | dict(num_key_value_heads=4),
    "zaya": dict(num_experts_per_tok=1),
}  # fmt: skip
"""Family (or family.sub-configuration) -> what differs from `SIZES`."""


def shrink(config_class: Any, family: str, vocabulary: int) -> Any:
    """Returns a tiny configuration of `family`; the configurations inside it are shrunk in the same way."""
    defaults = config_class()
    names = set(inspect.signature(config_class.__init__).parameters) | set(getattr(config_class, "attribute_map", {}))
    names |= set(vars(defaults))
    values = {name: value for name, value in SIZES.items() if name in names}
    values |= {name: vocabulary for name in ("vocab_size", "vocab_size_per_layer_input") if name in names}
    for name in getattr(config_class, "sub_configs", {}):
        inner = type(getattr(defaults, name, None))
        if getattr(inner, "model_type", ""):
            values[name] = shrink(inner, f"{family}.{name}", vocabulary).to_dict()
    values |= OVERRIDES.get(family, {})
    kinds = getattr(config_class(**values), "layer_types", None) if "layer_types" in names else None
    # a model without any attention layer keeps no cache that transformers can read
    if isinstance(kinds, list) and {*kinds} <= {"linear_attention", "conv"}:
        values["layer_types"] = [*kinds[:-1], "full_attention"]
    return config_class(**values)
