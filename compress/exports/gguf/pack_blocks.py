"""Packs codes and scales into the blocks of GGUF, as `ggml-common.h` of llama.cpp lays them out.

Shape letters: N rows, B blocks of a row, w weights of a block (32 or 256), S parts of a block with scales of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from compress.exports.gguf.block_types import BlockType
from compress.exports.integers import Integers
from compress.format.layouts import bits as bitstream
from compress.format.packed import PackedTensor

PARTS = {"Q2_K": 16, "Q3_K": 16, "Q4_K": 8, "Q5_K": 8, "Q6_K": 16}
"""Type -> parts of a block with scales of their own."""


def pack_integers(kind: BlockType, parts: Integers) -> torch.Tensor:
    """Returns (code − zero point) · scale in blocks, exactly: uint8 [N, bytes of a row].

    The scales are float16. In a K-quant each becomes the scale of its blocks; the scales of their parts are 1, and
    their minima the zero points.
    """
    codes_NK, scale_NG, zero_NG = parts
    rows, columns = codes_NK.shape
    blocks = columns // kind.weights
    times = blocks // scale_NG.shape[1]
    d_NB, zero_NB = (plane_NG.repeat_interleave(times, 1) for plane_NG in (scale_NG, zero_NG))
    code_NBw = codes_NK.view(rows, blocks, kind.weights)
    if kind.name in ("Q4_0", "Q5_0", "Q8_0"):
        block_NBy = _SIMPLE[kind.name](code_NBw.to(torch.int16) - zero_NB.to(torch.int16)[..., None])
        return torch.cat([_bytes(d_NB), block_NBy], 2).flatten(1)
    if kind.name == "TQ2_0":  # d·(q − 1) with q from 0 to 3, so that our −2 is its 2
        return torch.cat([_crumbs(3 - code_NBw.to(torch.int16)), _bytes(-d_NB)], 2).flatten(1)
    count = PARTS[kind.name]
    one_NBS = torch.ones((rows, blocks, count), dtype=torch.int16, device=codes_NK.device)
    minimum_NBS = zero_NB.to(torch.int16)[..., None].expand(-1, -1, count)
    return pack_parts(kind, code_NBw, d_NB, one_NBS, d_NB, minimum_NBS)


def pack_super_blocks(kind: BlockType, packed: PackedTensor) -> torch.Tensor:
    """Returns the codes, scales and minima of a `super_block.v1` tensor in blocks, uint8 [N, bytes of a row]."""
    (rows, columns), planes = packed.shape, packed.planes
    codes_NK = bitstream.unpack_rows(planes["weight"], packed.scheme.bits, columns)
    parts = {name: planes[name].view(rows, -1, PARTS[kind.name]) for name in ("scale", "minimum") if name in planes}
    d_NB = planes["d"]
    return pack_parts(
        kind, codes_NK.view(rows, -1, kind.weights), d_NB, parts["scale"], planes.get("dmin", d_NB),
        parts.get("minimum", parts["scale"]),
    )  # fmt: skip


def pack_parts(
    kind: BlockType,
    code_NBw: torch.Tensor,
    d_NB: torch.Tensor,
    scale_NBS: torch.Tensor,
    dmin_NB: torch.Tensor,
    minimum_NBS: torch.Tensor,
) -> torch.Tensor:
    """Returns blocks of a K-quant, uint8 [N, bytes of a row].

    A weight is d · scale · code − dmin · minimum for Q2_K, Q4_K and Q5_K; for Q3_K and Q6_K it is
    d · scale · (code − 4) and d · scale · (code − 32).

    Args:
        kind: one of the K-quants.
        code_NBw: unsigned codes.
        d_NB, dmin_NB: float16; `dmin_NB` is not read for Q3_K and Q6_K.
        scale_NBS, minimum_NBS: integers in the range of the type; `minimum_NBS` is not read for Q3_K and Q6_K.
    """
    code_NBw, scale_NBS, minimum_NBS = (part.to(torch.int16) for part in (code_NBw, scale_NBS, minimum_NBS))
    d, dmin = _bytes(d_NB), _bytes(dmin_NB)
    if kind.name == "Q2_K":
        stored = [(scale_NBS | minimum_NBS << 4).to(torch.uint8), _crumbs(code_NBw), d, dmin]
    elif kind.name == "Q3_K":
        stored = [_bit_planes(code_NBw >> 2), _crumbs(code_NBw & 3), _six_bits_alone(scale_NBS + 32), d]
    elif kind.name == "Q4_K":
        stored = [d, dmin, _six_bits(scale_NBS, minimum_NBS), _nibble_pairs(code_NBw)]
    elif kind.name == "Q5_K":
        high = _bit_planes(code_NBw >> 4)
        stored = [d, dmin, _six_bits(scale_NBS, minimum_NBS), high, _nibble_pairs(code_NBw & 15)]
    else:
        quarter = code_NBw.view(*code_NBw.shape[:2], 2, 4, 32)
        low = ((quarter[..., :2, :] & 15) | (quarter[..., 2:, :] & 15) << 4).to(torch.uint8).flatten(2)
        stored = [low, _crumbs(code_NBw >> 4), scale_NBS.to(torch.int8).view(torch.uint8), d]
    return torch.cat(stored, 2).flatten(1)


def _bytes(d_NB: torch.Tensor) -> torch.Tensor:
    """The float16 numbers as bytes [N, B, 2]."""
    return d_NB.to(torch.float16).contiguous()[..., None].view(torch.uint8)


def _q4_0(value_NBw: torch.Tensor) -> torch.Tensor:
    code = value_NBw + 8
    return (code[..., :16] | code[..., 16:] << 4).to(torch.uint8)


def _q5_0(value_NBw: torch.Tensor) -> torch.Tensor:
    code = value_NBw + 16
    fifth = code.view(*code.shape[:2], 4, 8) >> 4 << torch.arange(8, dtype=torch.int16, device=code.device)
    low = code & 15
    return torch.cat([fifth.sum(3).to(torch.uint8), (low[..., :16] | low[..., 16:] << 4).to(torch.uint8)], 2)


def _q8_0(value_NBw: torch.Tensor) -> torch.Tensor:
    return value_NBw.to(torch.int8).view(torch.uint8)


_SIMPLE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"Q4_0": _q4_0, "Q5_0": _q5_0, "Q8_0": _q8_0}


def _crumbs(code_NBw: torch.Tensor) -> torch.Tensor:
    """2-bit codes [N, B, 64]: byte l of a half holds the weights l, 32 + l, 64 + l and 96 + l of the half."""
    four = code_NBw.view(*code_NBw.shape[:2], 2, 4, 32)
    byte = four[..., 0, :] | four[..., 1, :] << 2 | four[..., 2, :] << 4 | four[..., 3, :] << 6
    return byte.to(torch.uint8).flatten(2)


def _bit_planes(bit_NBw: torch.Tensor) -> torch.Tensor:
    """Bits [N, B, 32]: bit t of byte l is that of weight 32t + l."""
    shifts = torch.arange(8, dtype=torch.int16, device=bit_NBw.device)[:, None]
    return (bit_NBw.view(*bit_NBw.shape[:2], 8, 32) << shifts).sum(2).to(torch.uint8)


def _nibble_pairs(code_NBw: torch.Tensor) -> torch.Tensor:
    """4-bit codes [N, B, 128]: 32 bytes for every pair of parts of 32 weights, the first one in the low nibbles."""
    pair = code_NBw.view(*code_NBw.shape[:2], 4, 2, 32)
    return (pair[..., 0, :] | pair[..., 1, :] << 4).to(torch.uint8).flatten(2)


def _six_bits(scale_NB8: torch.Tensor, minimum_NB8: torch.Tensor) -> torch.Tensor:
    """Eight scales and minima of 6 bits in 12 bytes, as Q4_K and Q5_K have them."""
    scale_low, scale_high = scale_NB8[..., :4], scale_NB8[..., 4:]
    minimum_low, minimum_high = minimum_NB8[..., :4], minimum_NB8[..., 4:]
    rest = scale_high & 15 | (minimum_high & 15) << 4
    first, second = scale_low | scale_high >> 4 << 6, minimum_low | minimum_high >> 4 << 6
    return torch.cat([first, second, rest], 2).to(torch.uint8)


def _six_bits_alone(scale_NBS: torch.Tensor) -> torch.Tensor:
    """Sixteen scales of 6 bits in 12 bytes, as Q3_K has them."""
    low = scale_NBS[..., :8] & 15 | (scale_NBS[..., 8:] & 15) << 4
    four = (scale_NBS >> 4).view(*scale_NBS.shape[:2], 4, 4)
    high = four[..., 0, :] | four[..., 1, :] << 2 | four[..., 2, :] << 4 | four[..., 3, :] << 6
    return torch.cat([low, high], 2).to(torch.uint8)
