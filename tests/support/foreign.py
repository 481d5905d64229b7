"""Checkpoints in the formats of other programs, written by plain loops that share no code with the package."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tests.support.exports import MODELS

Encode = Callable[[str, int, int], tuple[dict[str, torch.Tensor], np.ndarray]]
"""Module, rows, columns -> the tensors that are stored for it by their suffixes, and the weight that they mean."""


@dataclass
class Foreign:
    """A folder that another program could have written, and the dense model that it means."""

    folder: Path
    dense: PreTrainedModel

    def weight(self, linear: str) -> torch.Tensor:
        """Returns what a linear means."""
        return self.dense.get_submodule(linear).get_parameter("weight").detach()


def write(folder: Path, kind: str, encode: Encode, quantization: Mapping[str, Any], key: str | None = None) -> Foreign:
    """Writes a tiny model with all linears of its blocks encoded; `quantization` becomes `key` of config.json."""
    torch.manual_seed(0)
    config = dict(MODELS[kind])
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).float().eval()
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and ("layers" in name or ".h." in name):
            transposed = isinstance(module, Conv1D)
            rows, columns = reversed(module.weight.shape) if transposed else module.weight.shape
            encoded, weight_NK = encode(name, rows, columns)
            del tensors[f"{name}.weight"]
            tensors |= {f"{name}.{suffix}": tensor.contiguous() for suffix, tensor in encoded.items()}
            module.weight.data = torch.from_numpy(weight_NK.T.copy() if transposed else weight_NK)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    described = json.loads(model.config.to_json_string(use_diff=False)) | {"architectures": [type(model).__name__]}
    (folder / "config.json").write_text(json.dumps(described | {key or "quantization_config": quantization}))
    return Foreign(folder, model)


def words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Returns the dense stream of each row of codes in words of 32 bits: one big number per row, cut into words."""
    rows = []
    for row in codes.tolist():
        stream = sum(code << (bits * place) for place, code in enumerate(row))
        rows.append([(stream >> (32 * place)) & 0xFFFFFFFF for place in range(-(-len(row) * bits // 32))])
    return np.array(rows, dtype=np.uint32).view(np.int32)


def draw(seed: str, *shape: int, top: int) -> np.ndarray:
    """Returns integers from 0 to below `top`, drawn by the text."""
    numbers = np.random.default_rng(list(seed.encode())).integers(0, top, shape)
    numbers.reshape(-1)[: min(top, numbers.size)] = np.arange(min(top, numbers.size))
    return numbers


def scales(seed: str, *shape: int) -> np.ndarray:
    """Returns small positive numbers, float16."""
    return (np.random.default_rng(list(f"{seed} scales".encode())).uniform(0.5, 1.5, shape) / 128).astype(np.float16)


def gptq(bits: int, group: int, *, act_order: bool, version: int = 1) -> Encode:
    """Returns the encoder of GPTQ, with zero points of their own; with act-order the groups are in random order."""

    def encode(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        groups = columns // group
        codes, zeros = draw(module, rows, columns, top=1 << bits), draw(f"{module} zero", rows, groups, top=1 << bits)
        scale = scales(module, rows, groups)
        order = np.random.default_rng(1).permutation(columns) if act_order else np.arange(columns)
        group_of = np.empty(columns, dtype=np.int32)
        for place, column in enumerate(order):
            group_of[column] = place // group
        weight = np.empty((rows, columns), dtype=np.float32)
        for row in range(rows):
            for column in range(columns):
                of = group_of[column]
                weight[row, column] = np.float32(codes[row, column] - zeros[row, of]) * np.float32(scale[row, of])
        kept = (zeros - (1 if version == 1 else 0)) % (1 << bits)
        return {
            "qweight": torch.from_numpy(words(codes, bits).T.copy()),
            "qzeros": torch.from_numpy(words(kept.T, bits)),
            "scales": torch.from_numpy(scale.T.copy()),
            "g_idx": torch.from_numpy(group_of),
        }, weight

    return encode


def awq(group: int) -> Encode:
    """Returns the encoder of AWQ, version gemm."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(codes_RN: np.ndarray) -> torch.Tensor:
        packed = np.zeros((len(codes_RN), codes_RN.shape[1] // 8), dtype=np.uint32)
        for word in range(packed.shape[1]):
            for place in range(8):
                packed[:, word] |= codes_RN[:, 8 * word + order[place]].astype(np.uint32) << np.uint32(4 * place)
        return torch.from_numpy(packed.view(np.int32))

    def encode(module: str, rows: int, columns: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        groups = columns // group
        codes, zeros = draw(module, rows, columns, top=16), draw(f"{module} zero", rows, groups, top=16)
        scale = scales(module, rows, groups)
        spread = [each.repeat(group, 1) for each in (zeros, scale)]
        weight = (codes - spread[0]).astype(np.float32) * spread[1].astype(np.float32)
        return {"qweight": pack(codes.T), "qzeros": pack(zeros.T), "scales": torch.from_numpy(scale.T.copy())}, weight

    return encode
