"""What GGUF holds of a packed linear, and how it is written: see `Target`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from compress.errors import OutputError
from compress.exports.gguf import block_types
from compress.exports.gguf.pack_blocks import pack_integers, pack_super_blocks
from compress.exports.integers import take_apart
from compress.exports.linear import JOINED, Linear, not_inside_a_block
from compress.format.layouts import super_block
from compress.format.packed import PackedTensor


def reason(linear: Linear) -> str | None:
    """See `Target.reason`: embedding and head are held too, and the transposed matrices of GPT-2."""
    return not_inside_a_block(linear) if linear.kind == JOINED else block_types.reason(linear)


def arrange(linears: Mapping[str, Linear]) -> dict[str, Linear]:
    """See `Target.arrange`: each gets its type of blocks."""
    return {name: replace(one, block_type=block_types.choose(one).name) for name, one in linears.items()}


def tensors(linear: Linear, packed: PackedTensor) -> dict[str, torch.Tensor]:
    """See `Target.tensors`: `blocks`, uint8 [N, bytes of a row]."""
    kind = block_types.choose(linear)
    if linear.scheme.layout == super_block.LAYOUT:
        return {"blocks": pack_super_blocks(kind, packed)}
    return {"blocks": pack_integers(kind, take_apart(linear, packed))}


def decode(linear: Linear, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """See `Target.decode`: by the package `gguf`."""
    gguf = reader()
    kind = gguf.GGMLQuantizationType[block_types.choose(linear).name]
    return torch.from_numpy(gguf.quants.dequantize(stored["blocks"].numpy(), kind))


def describe(linears: Mapping[str, Linear], dense: list[str]) -> dict[str, Any]:
    """See `Target.describe`: nothing; config.json is read by the converter only."""
    return {}


def reader() -> Any:
    """Returns the package `gguf`.

    Raises:
        OutputError: it is not installed.
    """
    try:
        import gguf.quants
    except ImportError as error:
        raise OutputError("the package gguf is missing", do="pip install 'compress-llm[gguf]'") from error
    return gguf
