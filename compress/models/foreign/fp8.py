"""8-bit floats with scales for blocks, rows or the whole: originals of DeepSeek and others, `fp8` of transformers.

    X.weight            float8 [N, K]
    X.weight_scale_inv  [⌈N/128⌉, ⌈K/128⌉], or one number   what the weight is multiplied by, despite its name
    X.weight_scale      [N, 1]                              in `fbgemm_fp8`
    X                   float8 [E, N, K]                    experts, with X_scale_inv [E, ⌈N/128⌉, ⌈K/128⌉]

Scales may be float32, bfloat16 or E8M0. Scales of activations are left aside: activations are not rounded here.

Shape letters: N out features, K in features, E experts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from compress.models.foreign.floats import Floats, power_of_two, spread
from compress.models.foreign.weight import Content, Decoded, ForeignWeight, Found, Stored, unusable

if TYPE_CHECKING:
    from compress.models.folder.tensor_files import TensorFiles

_SCALE = re.compile(r"(?P<weight>.+)_scale(_inv)?")
_ACTIVATIONS = re.compile(r"(^|[._])(activation|input|output|k|v|q)_scale(_inv|_ub)?$")
_CODES = ("F8_E4M3", "F8_E5M2")


def find(settings: Mapping[str, Any], files: TensorFiles) -> Found:
    """See `Format`."""
    found = Found(unread=[name for name in files.tensors if _ACTIVATIONS.search(name)])
    block = settings.get("weight_block_size")
    size = (int(block[0]), int(block[1])) if isinstance(block, list) and len(block) == 2 else None
    for name in files.tensors:
        match = _SCALE.fullmatch(name)
        if match is None or name in found.unread or match["weight"] not in files.tensors:
            continue
        entry = files.tensors[match["weight"]]
        if entry.dtype not in _CODES or len(entry.shape) < 2:
            raise unusable(match["weight"], f"it is {entry.dtype} {list(entry.shape)} and has a scale", "8-bit floats")
        parts = {"weight": match["weight"], "scale": name}
        found.weights.append(ForeignWeight(match["weight"], entry.shape, parts, (size, entry.dtype)))
    if settings.get("activation_scheme") or found.unread:
        found.warnings.append("the checkpoint was made for activations of 8 bits (float); here they are not rounded")
    return found


def read(weight: ForeignWeight, stored: Stored) -> Content:
    """See `Format`."""

    block, kind = weight.details
    scale = stored["scale"]
    if kind == "F8_E4M3" and len(weight.shape) == 2 and (scale.numel() == 1 or (block is None and scale.dim() == 2)):
        return Floats(
            element="e4m3",
            shape=(weight.shape[0], weight.shape[1]),
            codes=lambda: stored["weight"].view(torch.uint8),
            scale_NG=scale.view(1, 1) if scale.numel() == 1 else scale,
        )

    def decode() -> torch.Tensor:
        scale = stored["scale"]
        scale = power_of_two(scale) if scale.dtype == torch.float8_e8m0fnu else scale.float()
        try:
            return stored["weight"].float().mul_(spread(scale, weight.shape, block))
        except ValueError as error:
            raise unusable(weight.module, str(error)) from error

    return Decoded(decode)
