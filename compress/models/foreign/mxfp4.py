"""MXFP4, as gpt-oss is published: 4-bit floats E2M1 in groups of 32, each with a scale that is a power of two.

    X_blocks  uint8 [E, N, K/32, 16]   two codes in a byte, the lower half first
    X_scales  uint8 [E, N, K/32]       exponents plus 127

The dense weight of the experts is held as [E, K, N].

Shape letters: E experts, N out features, K in features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from compress.format import minifloats
from compress.models.foreign.floats import nibbles, power_of_two
from compress.models.foreign.weight import Content, Decoded, ForeignWeight, Found, Stored, unusable

if TYPE_CHECKING:
    from compress.models.folder.tensor_files import TensorFiles

_BLOCKS, _SCALES = "_blocks", "_scales"


def find(settings: Mapping[str, Any], files: TensorFiles) -> Found:
    """See `Format`."""
    names = (name.removesuffix(_BLOCKS) for name in files.tensors if name.endswith(_BLOCKS))
    return Found([_weight(name, files) for name in names])


def _weight(name: str, files: TensorFiles) -> ForeignWeight:
    blocks, scales = files.tensors[f"{name}{_BLOCKS}"], files.tensors.get(f"{name}{_SCALES}")
    if scales is None or len(blocks.shape) != 4 or scales.shape != blocks.shape[:3] or blocks.shape[3] != 16:
        raise unusable(name, f"its blocks {list(blocks.shape)} have no scales that fit", "[E, N, K/32, 16]")
    experts, rows, groups, _ = blocks.shape
    parts = {"blocks": f"{name}{_BLOCKS}", "scales": f"{name}{_SCALES}"}
    return ForeignWeight(name, (experts, 32 * groups, rows), parts, by_rows=True)


def read(weight: ForeignWeight, stored: Stored) -> Content:
    """See `Format`."""

    def decode() -> torch.Tensor:
        value_ENGg = minifloats.e2m1_values(nibbles(stored["blocks"]))
        value_ENGg.mul_(power_of_two(stored["scales"])[..., None])
        return value_ENGg.flatten(2).transpose(1, 2)

    return Decoded(decode)
