"""Packed checkpoints with codes over their whole range, and readers of foreign formats that share no code with ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from compress.calibration.stats import LayerStats
from compress.format import layouts
from compress.format.layouts import additive, int_group
from compress.format.packed import PackedTensor
from compress.methods import rtn
from tests.support.packed_checkpoints import COMMON, Packed, pack_in_place, write

_SIZES = COMMON | {"hidden_size": 64, "intermediate_size": 96}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_SIZES, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", **_SIZES},  # biases
    "qwen3": {"model_type": "qwen3", **_SIZES, "head_dim": 32},  # norms of q and k; heads wider than the stream
    # norms with 1 added, windows, two rotary bases; engines take query_pre_attn_scalar from the width of a head
    "gemma3": {
        "model_type": "gemma3_text", **_SIZES, "num_hidden_layers": 6, "head_dim": 32, "query_pre_attn_scalar": 32,
        "sliding_window": 8, "tie_word_embeddings": True,
    },
    "gpt2": {"model_type": "gpt2", "vocab_size": 61, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "mixtral": {"model_type": "mixtral", **_SIZES, "num_experts_per_tok": 2, "num_local_experts": 4},
    "qwen3_moe": {
        "model_type": "qwen3_moe", **_SIZES, "head_dim": 32, "num_experts_per_tok": 2, "num_experts": 4,
        "moe_intermediate_size": 96, "decoder_sparse_step": 1, "norm_topk_prob": True,  # llama.cpp knows no other
    },
}  # fmt: skip
Solve = Callable[[torch.Tensor], PackedTensor]


def integers(bits: int, group: int | None, *, symmetric: bool = True, scale: torch.dtype = torch.float16) -> Solve:
    """Returns what packs a weight with random codes and zero points that take every value; `group` None: the row."""
    generator = torch.Generator().manual_seed(bits)

    def solve(weight_NK: torch.Tensor) -> PackedTensor:
        (rows, columns), top = weight_NK.shape, 1 << bits
        groups = columns // (group or columns)
        codes_NK = torch.randint(0, top, (rows, columns), generator=generator)
        codes_NK.view(-1)[:top] = torch.arange(top)
        scale_NG = (torch.rand(rows, groups, generator=generator) + 0.5) / (8 * top)
        zero_NG = None if symmetric else torch.randint(0, top, (rows, groups), generator=generator)
        return int_group.pack(codes_NK, scale_NG.to(scale), zero_NG, bits=bits)

    return solve


def books(count: int, bits: int) -> Solve:
    """Returns what packs a weight with random codes of `count` codebooks."""
    generator = torch.Generator().manual_seed(bits)

    def solve(weight_NK: torch.Tensor) -> PackedTensor:
        rows, columns = weight_NK.shape
        codes_NJM = torch.randint(0, 1 << bits, (rows, columns // 8, count), generator=generator)
        codebooks_MVg = torch.randn(count, 1 << bits, 8, generator=generator) / 16
        return additive.pack(codes_NJM, codebooks_MVg, (torch.rand(rows, generator=generator) + 0.5).half())

    return solve


def rounding(grid: str, activations: str) -> Solve:
    """Returns what packs a weight on the grid, with inputs up to 4 in calibration."""
    config = rtn.Config(
        grid=grid, activations=activations, bits=8 if grid == "int" else 4,
        # with a power of two as its global scale, NVFP4's weights are exact in bfloat16, in which it is decompressed
        weight_peak=448 * 6 / 4096,
    )  # fmt: skip

    def solve(weight_NK: torch.Tensor) -> PackedTensor:
        stats = LayerStats(1, torch.eye(weight_NK.shape[1]), peak=4.0)
        return rtn.solve(weight_NK, stats, config)

    return solve


def packed(folder: Path, kind: str, solve: Solve, skip: str = "^$", **sizes: int) -> Packed:
    """Returns a tiny model of the kind, packed into `folder`; linears that match `skip` stay dense.

    `sizes` replace keys of its configuration.
    """
    torch.manual_seed(0)
    config = MODELS[kind] | sizes
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    model = model.float().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)
    linears = pack_in_place(model, solve, skip)
    write(folder, model, linears)
    return Packed(folder, model, linears)


def stored(folder: Path, linear: str) -> dict[str, np.ndarray]:
    """Returns the tensors that an export stores for a linear, by their suffixes."""
    from safetensors.numpy import load_file

    tensors: dict[str, np.ndarray] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return {name.removeprefix(f"{linear}."): one for name, one in tensors.items() if name.rpartition(".")[0] == linear}


def stream(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Returns `count` codes of every row of a bit stream: bit by bit, the slow way."""
    raw = np.unpackbits(np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1), axis=1, bitorder="little")
    digits = raw[:, : bits * count].reshape(len(words), count, bits).astype(np.int64)
    return (digits << np.arange(bits)).sum(-1)


def affine(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | int) -> np.ndarray:
    """Returns (codes − zero) · scale for codes [N, K], scales and zero points [N, G]."""
    group = codes.shape[1] // scale.shape[1]
    spread = zero if isinstance(zero, int) else zero.repeat(group, 1)
    return ((codes - spread) * scale.astype(np.float64).repeat(group, 1)).astype(np.float32)


def meaning(linears: Mapping[str, PackedTensor], name: str) -> np.ndarray:
    """Returns the weight that our checkpoint means, float32 [N, K]."""
    weight: np.ndarray = layouts.unpack(linears[name]).numpy()
    return weight
