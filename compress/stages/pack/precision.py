"""Chooses the dtype of the products in the calibration forward: bfloat16 where the device is fast at it, or float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_FAST = ("amx_bf16", "avx512_bf16", "sve_bf16")
"""Instruction sets of a CPU with products of bfloat16; without one of them, bfloat16 is slower than float32."""


def forward_dtype(name: str, device: torch.device, capabilities: Mapping[str, object] | None = None) -> torch.dtype:
    """Returns the dtype for `Recipe.forward_dtype`.

    Args:
        name: `auto`, `float32` or `bfloat16`.
        device: where blocks are computed.
        capabilities: instruction sets of the CPU as `torch.cpu.get_capabilities` gives them; this machine's by default.
    """
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        known = torch.cpu.get_capabilities() if capabilities is None else capabilities
        fast = any(known.get(instructions) for instructions in _FAST)
    else:
        fast = device.type == "xpu"
    return torch.bfloat16 if fast else torch.float32
