"""Tiny packed models with a tokenizer, as llama.cpp's converter wants them, and where it puts their rows."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from compress.format import layouts
from compress.methods import rtn
from tests.support.exports import Solve, integers
from tests.support.packed_checkpoints import COMMON, Packed, pack_in_place, write

VOCABULARY = 264
_SIZES = COMMON | {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96}
_LONG = _SIZES | {"hidden_size": 256, "intermediate_size": 256}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_LONG, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", **_SIZES},  # biases
    "qwen3": {"model_type": "qwen3", **_SIZES, "head_dim": 32},  # norms of q and k; heads wider than the stream
    "gemma3": {"model_type": "gemma3_text", **_SIZES, "head_dim": 32, "sliding_window": 32},  # norms with 1 added
    "mixtral": {"model_type": "mixtral", **_SIZES, "num_experts_per_tok": 2, "num_local_experts": 3},
    "gpt2": {"model_type": "gpt2", "vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4,
             "n_positions": 64},
}  # fmt: skip


def tokenizer(split: Any = None) -> Tokenizer:
    """Returns byte-level BPE of all bytes, three longer words and an end; `split` goes before the bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: number for number, token in enumerate(["<eos>", *alphabet, "he", "Ġt", "Ġthe"])}
    made = Tokenizer(models.BPE(words, [("h", "e"), ("Ġ", "t"), ("Ġt", "he")]))
    steps = [split or pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    return made


def packed(folder: Path, kind: str, *solvers: Solve, embedding: Solve | None = None) -> Packed:
    """Returns a tiny model of the kind, packed into `folder` with a tokenizer; the solvers take turns."""
    torch.manual_seed(0)
    config = dict(MODELS[kind])
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    model = model.float().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    turns = cycle(solvers)
    linears = pack_in_place(model, lambda weight_NK: next(turns)(weight_NK), "^$")
    if embedding is not None:
        weight = model.get_input_embeddings().weight
        linears["model.embed_tokens"] = embedding(weight.detach())
        weight.data = layouts.unpack(linears["model.embed_tokens"])
    write(folder, model, linears)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer(), eos_token="<eos>").save_pretrained(folder)
    return Packed(folder, model, linears)


def every_type() -> list[Solve]:
    """Returns what packs into Q4_0, Q5_0, Q8_0, Q2_K to Q6_K and TQ2_0, in turn; 256 must divide the rows."""
    groups = [(4, 32, True), (4, 64, False), (7, 32, True)]
    rows = [(2, None, False), (3, None, True), (4, None, False), (5, None, False), (6, None, True), (2, None, True)]
    plain = [integers(bits, group, symmetric=symmetric) for bits, group, symmetric in (*groups, *rows)]
    return [*plain, *(two_levels(kind) for kind in ("q2_k", "q3_k"))]


def two_levels(kind: str) -> Solve:
    """Returns what rounds weights to the grid of a K-quant."""
    return lambda weight_NK: rtn.solve(weight_NK, None, rtn.Config(grid=kind))


def rotated(weight_NK: np.ndarray, heads: int) -> np.ndarray:
    """Returns the rows of q or k as llama.cpp has them for Llama: those of the two halves of a head in turn."""
    rows, columns = weight_NK.shape
    halves = weight_NK.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.transpose(0, 2, 1, 3)).reshape(rows, columns)


def expected(ours: Packed, kind: str) -> dict[str, np.ndarray]:
    """Returns the weights that the GGUF file must mean, by their names there; those of experts stacked."""
    config = ours.dense.config
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads} if kind in ("llama", "mixtral") else {}
    names = {"o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}
    weights: dict[str, np.ndarray] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    for name, linear in ours.linears.items():
        weight: np.ndarray = layouts.unpack(linear).numpy()
        parts = name.split(".")
        if name == "model.embed_tokens":
            weights["token_embd.weight"] = weight
        elif ".experts." in name:  # … mlp.experts.q_gate_up_proj.0
            pieces = np.split(weight, 2) if "gate_up" in name else [weight]
            for kept, piece in zip(["gate", "up"] if "gate_up" in name else ["down"], pieces, strict=True):
                stacks.setdefault(f"blk.{parts[2]}.ffn_{kept}_exps.weight", []).append(piece)
        else:
            short = parts[-1].removesuffix("_proj")
            turned = rotated(weight, heads[short]) if short in heads else weight
            weights[f"blk.{parts[2]}.{names.get(short, f'attn_{short}')}.weight"] = turned
    return weights | {name: np.stack(pieces) for name, pieces in stacks.items()}
