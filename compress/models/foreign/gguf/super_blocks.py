"""Takes the K-quants of GGUF apart: codes, scales and minima of `super_block.v1`, as ggml-common.h lays them out.

    Q2_K   16 bytes: scale | minimum << 4; 64 bytes of 2-bit codes; d; dmin
    Q3_K   32 bytes of third bits; 64 bytes of 2-bit codes; 12 bytes: 16 scales of 6 bits, plus 32; d
    Q4_K   d; dmin; 12 bytes: 8 scales and 8 minima of 6 bits; 128 bytes of 4-bit codes
    Q5_K   as Q4_K, with 32 bytes of fifth bits before the codes
    Q6_K   128 bytes of 4-bit codes; 64 bytes of 2-bit codes above them; 16 scales, signed; d

Shape letters: N rows, B blocks of 256 weights, Y bytes of a block, w weights of a block, S scales of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

BITS = {"Q2_K": 2, "Q3_K": 3, "Q4_K": 4, "Q5_K": 5, "Q6_K": 6}
"""Type -> bits of a code."""


class Statistics(NamedTuple):
    """What of the blocks is no code."""

    scale_NBS: torch.Tensor  # noqa: N815
    minimum_NBS: torch.Tensor | None  # noqa: N815
    d_NB: torch.Tensor  # noqa: N815
    dmin_NB: torch.Tensor | None  # noqa: N815


def statistics(kind: str, blocks_NBY: torch.Tensor) -> Statistics:
    """Returns scales (integers), minima, and their units in float16, of blocks of a type (uint8)."""
    if kind == "Q2_K":
        both = blocks_NBY[..., :16]
        return Statistics(both & 15, both >> 4, _half(blocks_NBY[..., 80:82]), _half(blocks_NBY[..., 82:84]))
    if kind == "Q3_K":
        return Statistics(_sixteen(blocks_NBY[..., 96:108]), None, _half(blocks_NBY[..., 108:110]), None)
    if kind == "Q6_K":
        scale_NBS = blocks_NBY[..., 192:208].contiguous().view(torch.int8)
        return Statistics(scale_NBS, None, _half(blocks_NBY[..., 208:210]), None)
    low, high, rest = blocks_NBY[..., 4:8], blocks_NBY[..., 8:12], blocks_NBY[..., 12:16]
    scale_NBS = torch.cat([low & 63, rest & 15 | low >> 6 << 4], -1)
    minimum_NBS = torch.cat([high & 63, rest >> 4 | high >> 6 << 4], -1)
    return Statistics(scale_NBS, minimum_NBS, _half(blocks_NBY[..., :2]), _half(blocks_NBY[..., 2:4]))


def codes(kind: str, blocks_NBY: torch.Tensor) -> torch.Tensor:
    """Returns the unsigned codes, uint8 [N, B, w], of blocks of a type (uint8)."""
    if kind == "Q2_K":
        return _crumbs(blocks_NBY[..., 16:80])
    if kind == "Q3_K":
        return _crumbs(blocks_NBY[..., 32:96]) | _bits(blocks_NBY[..., :32]) << 2
    if kind == "Q4_K":
        return _nibbles(blocks_NBY[..., 16:144], 4)
    if kind == "Q5_K":
        return _nibbles(blocks_NBY[..., 48:176], 4) | _bits(blocks_NBY[..., 16:48]) << 4
    low = _apart(blocks_NBY[..., :128], 2, 2, 32)
    return torch.cat([low & 15, low >> 4], -2).flatten(-3) | _crumbs(blocks_NBY[..., 128:192]) << 4


def _half(bytes_NBy: torch.Tensor) -> torch.Tensor:
    return bytes_NBy.contiguous().view(torch.float16)[..., 0]


def _apart(bytes_NBy: torch.Tensor, *sizes: int) -> torch.Tensor:
    return bytes_NBy.reshape(*bytes_NBy.shape[:-1], *sizes)


def _crumbs(bytes_NBy: torch.Tensor) -> torch.Tensor:
    """2-bit codes: byte l of a half holds the weights l, 32 + l, 64 + l and 96 + l of the half."""
    halves = _apart(bytes_NBy, 2, 1, 32)
    return (halves >> torch.arange(0, 8, 2, dtype=torch.uint8)[:, None] & 3).flatten(-3)


def _bits(bytes_NBy: torch.Tensor) -> torch.Tensor:
    """Single bits: bit t of byte l is that of weight 32t + l."""
    return (bytes_NBy[..., None, :] >> torch.arange(8, dtype=torch.uint8)[:, None] & 1).flatten(-2)


def _nibbles(bytes_NBy: torch.Tensor, pairs: int) -> torch.Tensor:
    """4-bit codes: 32 bytes for every pair of stretches of 32 weights, the first one in the low halves."""
    pair = _apart(bytes_NBy, pairs, 1, 32)
    return torch.cat([pair & 15, pair >> 4], -2).flatten(-3)


def _sixteen(bytes_NBy: torch.Tensor) -> torch.Tensor:
    """Sixteen scales of 6 bits from −32 on, int8."""
    low = torch.cat([bytes_NBy[..., :8] & 15, bytes_NBy[..., :8] >> 4], -1)
    high = (bytes_NBy[..., None, 8:] >> torch.arange(0, 8, 2, dtype=torch.uint8)[:, None] & 3).flatten(-2)
    return (low | high << 4).to(torch.int8) - 32
