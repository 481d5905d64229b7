"""Dense little-endian bit streams in int32 words: element j of a row starts at bit j·b of the row's stream.

The same bytes as the `pack-quantized` format of compressed-tensors ≥ 0.18. Elements may straddle two words.

Shape letters: R rows, K elements of a row, W words of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

_WORD = 32
_MASK = 0xFFFFFFFF
_CHUNK = 1 << 18
"""Codes that are packed or unpacked at once."""


def words_for(elements: int, bits: int) -> int:
    """Returns how many 32-bit words hold `elements` codes of `bits` bits."""
    return -(-elements * bits // _WORD)


def code_dtype(bits: int) -> torch.dtype:
    """Returns the dtype that codes of up to 16 bits are unpacked to."""
    return torch.uint8 if bits <= 8 else torch.int32


def _parts(rows: torch.Tensor, width: int) -> tuple[torch.Tensor, ...]:
    parts: tuple[torch.Tensor, ...] = torch.split(rows, max(1, _CHUNK // max(1, width)))  # type: ignore[no-untyped-call]
    return parts


def _places(bits: int) -> tuple[int, int, Iterator[tuple[int, int, int]]]:
    """Returns codes and words of one period of the stream, and (code, word, offset) for each code in it."""
    codes = _WORD // math.gcd(bits, _WORD)
    return codes, codes * bits // _WORD, ((j, j * bits // _WORD, j * bits % _WORD) for j in range(codes))


def pack_rows(codes_RK: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns int32 [R, ceil(K·b/32)] for integer codes 0 ≤ code < 2^b; the tail is padded with zero bits."""
    # the stream is made in int64, eight times the codes: a few rows at a time
    parts = [_pack(part_RK, bits) for part_RK in _parts(codes_RK, codes_RK.shape[1])]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _pack(codes_RK: torch.Tensor, bits: int) -> torch.Tensor:
    rows, width = codes_RK.shape
    period, words, places = _places(bits)
    periods = -(-width // period)
    codes = torch.nn.functional.pad(codes_RK.to(torch.int64), (0, periods * period - width))
    codes = codes.view(rows, periods, period)
    stream = torch.zeros(rows, periods, words, dtype=torch.int64, device=codes.device)
    for j, word, offset in places:
        stream[..., word] |= (codes[..., j] << offset) & _MASK
        if offset + bits > _WORD:
            stream[..., word + 1] |= codes[..., j] >> (_WORD - offset)
    signed = torch.where(stream > 0x7FFFFFFF, stream - (1 << _WORD), stream).to(torch.int32)
    return signed.view(rows, -1)[:, : words_for(width, bits)].contiguous()


def unpack_rows(words_RW: torch.Tensor, bits: int, width: int) -> torch.Tensor:
    """Returns [R, `width`] in `code_dtype`, the inverse of `pack_rows`."""
    parts = [_unpack(part_RW, bits, width) for part_RW in _parts(words_RW, width)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _unpack(words_RW: torch.Tensor, bits: int, width: int) -> torch.Tensor:
    rows = words_RW.shape[0]
    period, words, places = _places(bits)
    periods = -(-width // period)
    stream = torch.nn.functional.pad(words_RW, (0, periods * words - words_RW.shape[1]))
    stream = (stream.to(torch.int64) & _MASK).view(rows, periods, words)
    dtype = code_dtype(bits)
    codes = torch.empty(rows, periods, period, dtype=dtype, device=words_RW.device)
    for j, word, offset in places:
        value = stream[..., word] >> offset
        if offset + bits > _WORD:
            value = value | (stream[..., word + 1] << (_WORD - offset))
        codes[..., j] = (value & ((1 << bits) - 1)).to(dtype)
    return codes.view(rows, -1)[:, :width].contiguous()


def unpack_places(words_WC: torch.Tensor, bits: int, places_R: torch.Tensor) -> torch.Tensor:
    """Returns the codes at `places_R` (int64) of streams that run down the columns of `words_WC`, in `code_dtype`.

    The result is [R, C], the rows `places_R` of `unpack_rows(words_WC.T, bits, width).T`.
    """
    first_R = places_R * bits
    word_R, offset_R1 = first_R // _WORD, (first_R % _WORD)[:, None]
    last_R = (word_R + 1).clamp_max(words_WC.shape[0] - 1)  # of a code that does not straddle, its bits are masked out
    low_RC, high_RC = (words_WC[part_R].to(torch.int64) & _MASK for part_R in (word_R, last_R))
    value_RC = (low_RC >> offset_R1) | (high_RC << (_WORD - offset_R1))
    return (value_RC & ((1 << bits) - 1)).to(code_dtype(bits))


def pack_flat(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns int32 [ceil(n·b/32)]: the codes of any shape, row-major, as one stream with one tail of padding."""
    return pack_rows(codes.reshape(1, -1), bits)[0]


def unpack_flat(words: torch.Tensor, bits: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns codes of `shape` in `code_dtype`, the inverse of `pack_flat`."""
    return unpack_rows(words[None], bits, math.prod(shape)).view(shape)
