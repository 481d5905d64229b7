"""vLLM in float32: the loader, the joined linears, the repacked weights and the graph are its own, one product is not.

Its int4 kernel for CPUs multiplies 16-bit numbers only, which would hide small errors of an export. The product below
takes its place. It reads the weights as vLLM has repacked them: words [N / 16, 2 K] of eight codes of neighbouring rows
each, scales [G, N], and zero points [G, N / 8], or the middle code where there are none.
"""

from __future__ import annotations

from pathlib import Path

import torch
import vllm_reader  # first: it sets what vLLM reads from the environment
from common import Answer, Logits, main
from vllm import _custom_ops

_SHIFTS = torch.arange(0, 32, 4)
_DECODED: dict[int, torch.Tensor] = {}
"""Address of the repacked words -> weight [K, N]."""


def _codes(words: torch.Tensor) -> torch.Tensor:
    """Returns the eight codes of every word, along a last axis."""
    return (words[..., None] >> _SHIFTS) & 15


def _weight(words: torch.Tensor, scale_GN: torch.Tensor, zeros: torch.Tensor | None, columns: int) -> torch.Tensor:
    """Returns the weight [K, N]."""
    groups, rows = scale_GN.shape
    codes_KN = _codes(words.view(rows // 16, columns, 2)).transpose(0, 1).reshape(columns, rows)
    zero_GN = torch.full_like(scale_GN, 8) if zeros is None else _codes(zeros).reshape(groups, rows)
    times = columns // groups
    return (codes_KN - zero_GN.repeat_interleave(times, 0)) * scale_GN.repeat_interleave(times, 0)


def _product(
    input: torch.Tensor,
    q_weight: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    pack_factor: int,
    isa_hint: str,
) -> torch.Tensor:
    """Takes the place of `vllm._custom_ops.cpu_gemm_wna16`."""
    key = q_weight.data_ptr()
    if key not in _DECODED:
        _DECODED[key] = _weight(q_weight.data, scales.data, None if zeros is None else zeros.data, input.shape[-1])
    product = input @ _DECODED[key].to(input.dtype)
    return product if bias is None else product + bias


def load(folder: Path) -> tuple[Logits, Answer]:
    """See `vllm_reader.load`."""
    _custom_ops.cpu_gemm_wna16 = _product
    return vllm_reader.load(folder, "float32")


if __name__ == "__main__":
    main(load)
