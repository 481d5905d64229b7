"""Tiny models whose embedding and head are packed too, as folders."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from compress.format import layouts
from compress.stages.pack import ends
from tests.support import packed_checkpoints
from tests.support.packed_checkpoints import Packed


def build(folder: Path, architecture: str, bits: int = 8) -> Packed:
    """Returns a folder with embedding and head packed; the dense model's weights are the decoded ones."""
    model = packed_checkpoints.tiny(architecture)
    packed = packed_checkpoints.pack_in_place(model, packed_checkpoints.rtn4, r"^$")
    names = {id(module): name for name, module in model.named_modules()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for module in (embedding,) if head.weight is embedding.weight else (embedding, head):
        one = ends.rounded(module.weight.detach(), bits)
        module.weight.data.copy_(layouts.unpack(one))
        packed[names[id(module)]] = one
    folder = folder / re.sub(r"\W", "-", f"{architecture}-{bits}")
    packed_checkpoints.write(folder, model, packed)
    return Packed(folder, model, packed)


def tokens() -> torch.Tensor:
    """Returns token ids [2, 12] below every tiny vocabulary, the padding among them."""
    return torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(1))
