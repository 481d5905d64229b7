"""Computes the logits for the proof of load with one packed decoder block in memory at a time.

The packed linears of a block compute with their kernels, as in the loaded model. The token embedding and the head are
decoded a stretch at a time. Texts are read at once, without a KV cache.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from compress.format import naming
from compress.format.reader import Checkpoint, open_checkpoint
from compress.models.block import Block
from compress.models.blocks import BlockWalker
from compress.models.source import ModelSource
from compress.models.walking import kv_cache
from compress.runtime import skeleton


def logits(folder: Path, texts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
    """Returns float32 logits [P, V] for every text, given by its tokens [T] and the positions [P] that are wanted.

    Every shard is read and compared with its sha256 first.

    Raises:
        FormatError, ModelError: the folder is damaged or incomplete, or its tensors do not fit the model.
    """
    checkpoint = open_checkpoint(folder)
    checkpoint.verify()
    walker = BlockWalker(ModelSource.open(folder))
    states = [walker.embed(tokens_T[None]) for tokens_T, _ in texts]
    for index, name in enumerate(walker.block_names):
        shell = copy.deepcopy(walker.model.get_submodule(name))  # on meta
        block = walker.load_block(index)
        packed = Block(index, name, _fill(shell, block, checkpoint))
        kv_cache.round_in(packed.module, walker.source.kv_scales, name)
        for state_1TH in states:
            walker.forward(packed, state_1TH, micro_batch=1, out=state_1TH)
        walker.free_block(block)
    return [
        walker.logits(state_1TH[:, positions_P])[0] for state_1TH, (_, positions_P) in zip(states, texts, strict=True)
    ]


def _fill(shell: nn.Module, block: Block, checkpoint: Checkpoint) -> nn.Module:
    """Returns the empty block with packed linears that have their planes, and with all other tensors of `block`."""
    entries = checkpoint.manifest["tensors"]
    prefix = f"{block.name}."
    skeleton.install(shell, {n.removeprefix(prefix): entries[n] for n in entries if n.startswith(prefix)})
    for path, layer in skeleton.packed_layers(shell).items():
        layer._buffers |= checkpoint.packed(f"{prefix}{path}").planes
        layer.keep_prepared = False
    loaded = dict(block.module.named_modules())
    for path, module in shell.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.device.type == "meta":
                module._parameters[name] = loaded[path].get_parameter(name)
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.device.type == "meta":
                # where a buffer stands for a parameter of packed experts, it is their guard
                is_guard = name in loaded[path]._parameters
                module._buffers[name] = naming.guard_tensor() if is_guard else loaded[path].get_buffer(name)
    return shell
