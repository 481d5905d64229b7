"""Tiny random models, compressed by round to nearest, as folders: what every test of the runtime starts from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from compress.format import layouts, naming
from compress.format.packed import PackedTensor
from compress.format.writer import CheckpointWriter
from compress.methods import rtn
from compress.models.linears import is_conv1d, is_linear
from compress.models.moe.layouts import expert_layout
from compress.models.moe.routers import find_routers
from tests.support.models import EXPERT_LAYOUTS

COMMON = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
COMMON |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.1}
MOE = COMMON | {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **COMMON, "tie_word_embeddings": False},
    "llama-tied": {"model_type": "llama", **COMMON, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", **COMMON},
    "gpt2": {"model_type": "gpt2", "vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "mixtral": {"model_type": "mixtral", **MOE, "num_local_experts": 4},
    "qwen3-moe": {"model_type": "qwen3_moe", **MOE, "num_experts": 4, "head_dim": 8, "decoder_sparse_step": 1},
}
CONFIGS |= {kind: {"model_type": model_type, **values} for kind, (model_type, values) in EXPERT_LAYOUTS.items()}
HEADS = re.compile(r"(^|\.)(lm_head|embed_out)$")


@dataclass
class Packed:
    """A checkpoint on disk and the dense model whose weights are what it means."""

    folder: Path
    dense: PreTrainedModel
    linears: dict[str, PackedTensor]


def tiny(architecture: str) -> PreTrainedModel:
    """Returns a random model in float32, in evaluation mode, with biases that are not zero."""
    torch.manual_seed(0)
    config = dict(CONFIGS[architecture])
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def pack_in_place(
    model: nn.Module, solve: Callable[[torch.Tensor], PackedTensor], skip: str
) -> dict[str, PackedTensor]:
    """Packs every linear but the head and those matching `skip`; the model's weights become the unpacked ones."""
    packed: dict[str, PackedTensor] = {}

    def take(name: str, weight_NK: torch.Tensor) -> torch.Tensor:
        packed[name] = solve(weight_NK.detach().float())
        return layouts.unpack(packed[name])

    routers = find_routers(model)
    for name, module in model.named_modules():
        if is_linear(module) and module not in routers and not HEADS.search(name) and not re.search(skip, name):
            transposed = is_conv1d(module)
            weight_NK = take(name, module.weight.T if transposed else module.weight)
            module.weight.data = (weight_NK.T if transposed else weight_NK).contiguous()
        for stack in layout.stacks if (layout := expert_layout(module)) is not None else ():
            if re.search(skip, f"{name}.q_{stack.parameter}"):
                continue
            held = module.get_parameter(stack.parameter).data.view(-1, *stack.held)
            for expert in range(stack.experts):
                matrix = held[expert].T if stack.transposed else held[expert]
                matrix.copy_(take(naming.expert(name, stack.parameter, expert), matrix))
    return packed


def write(folder: Path, model: PreTrainedModel, packed: dict[str, PackedTensor]) -> None:
    """Writes the checkpoint: dense tensors in the first shard, planes block by block, as the pipeline does."""
    replaced = {f"{name}.weight" for name in packed}
    replaced |= {naming.guard(*found[:2]) for name in packed if (found := naming.parse_expert(name))}
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    dense = {k: v for k, v in model.state_dict().items() if k not in replaced | tied}
    groups: dict[str, dict[str, PackedTensor]] = {}
    for name, tensor in packed.items():
        block = re.match(r".*?\.\d+|", name)
        assert block
        groups.setdefault(block[0], {})[name] = tensor
    writer = CheckpointWriter(folder, shard_count=1 + len(groups))
    records = [writer.write_shard(0, dense)]
    records += [writer.write_shard(i, naming.plane_tensors(g)) for i, g in enumerate(groups.values(), start=1)]
    tensors = {
        name: {"scheme": p.scheme.to_dict(), "shape": list(p.shape), "bias": f"{name}.bias" in dense}
        for name, p in packed.items()
    }
    config = json.loads(model.config.to_json_string(use_diff=False)) | {
        "architectures": [type(model).__name__],
        "dtype": "float32",
    }
    writer.finish(records=records, config=config, manifest={"tensors": tensors})


def rtn4(weight_NK: torch.Tensor) -> PackedTensor:
    """Returns the weight rounded to 4 bits in groups of 8."""
    return rtn.solve(weight_NK, None, rtn.Config(bits=4, group_size=8, symmetric=False))
