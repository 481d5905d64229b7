"""Builds the memory block of a prepared weight: a header of 32 integers and sections, as described in src/abi.h.

Shape letters: N out features, K in features, C columns of a plane.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from enum import IntEnum

import torch

MAGIC = 0x6B636F6C62706D63
LANES = 16
"""Rows of a tile: they stand side by side in the lanes of a vector."""
PERIOD = 32
"""The number of codes that ends on a word boundary at every width."""
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""Numbers of the dtypes that the library reads and writes."""
_ALIGNMENT = 64
_FIELDS = (
    "magic", "kind", "rows", "cols", "bits", "group", "stats", "scale_type", "value_type", "width", "keep", "books",
    "exponent", "entries", "col_bytes", "run_tiles",
)  # fmt: skip
_SECTIONS = ("words", "scale", "zero", "steps", "index", "perm", "rowptr", "col", "val", "books", "reach", "vectors")
_HEADER_WORDS = 32


class Kind(IntEnum):
    """The content of the sections."""

    CODES = 0
    DENSE = 1
    SPARSE = 2
    ADDITIVE = 3
    ROUNDED = 4


class Stats(IntEnum):
    """How the statistics of groups are stored."""

    SCALE_ONLY = 0
    SCALE_ZERO = 1
    BILEVEL = 2
    REAL = 3


def make(fields: Mapping[str, int], sections: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Returns the block, uint8: header and sections, each on a boundary of 64 bytes."""
    offsets, end = {}, _HEADER_WORDS * 8
    for name, section in sections.items():
        offsets[name] = end
        end += -(-section.numel() * section.element_size() // _ALIGNMENT) * _ALIGNMENT
    block = torch.empty(end, dtype=torch.uint8)
    header = block[: _HEADER_WORDS * 8].view(torch.int64)
    header.zero_()
    known = {"magic": MAGIC, **fields}
    assert not known.keys() - set(_FIELDS) and not sections.keys() - set(_SECTIONS)
    header[: len(_FIELDS)] = torch.tensor([known.get(name, 0) for name in _FIELDS])
    header[len(_FIELDS) : len(_FIELDS) + len(_SECTIONS)] = torch.tensor([offsets.get(name, 0) for name in _SECTIONS])
    for name, section in sections.items():
        size = section.numel() * section.element_size()
        target = block[offsets[name] : offsets[name] + size].view(section.dtype).view(section.shape)
        target.copy_(section)  # a transposed view is laid out here, without a copy in between
    return block


def field(block: torch.Tensor, name: str) -> int:
    """Returns one field of the header."""
    return ctypes.c_int64.from_address(block.data_ptr() + 8 * _FIELDS.index(name)).value


def lanes(plane_NC: torch.Tensor, columns: int | None = None) -> torch.Tensor:
    """Returns a view [tiles, C, 16] with the rows of a tile innermost; rows and columns are padded with zeros."""
    rows, width = plane_NC.shape
    columns = width if columns is None else columns
    tiles = -(-rows // LANES)
    if columns != width or rows % LANES:
        padded = plane_NC.new_zeros(tiles * LANES, columns)
        padded[:rows, :width] = plane_NC
        plane_NC = padded
    return plane_NC.reshape(tiles, LANES, columns).transpose(1, 2)


def raw(plane: torch.Tensor) -> torch.Tensor:
    """Returns the plane with its bytes as signed integers, for dtypes that few operations of torch know."""
    sizes = {2: torch.int16, 4: torch.int32}
    return plane.contiguous().view(sizes[plane.element_size()])
