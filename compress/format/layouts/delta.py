"""The sparse delta part that any dense layout may carry: CSR entries that are *added* to the dequantised value.

A stored entry is the difference between the wanted value and the dense part's value at its place, so a reader
that ignores the delta still loads the dense part, and one that adds it gets exactly what was evaluated.

Shape letters: N out features, K in features, Z entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from compress.errors import FormatError

Planes = dict[str, torch.Tensor]
Specs = dict[str, tuple[torch.dtype, tuple[int, ...]]]
_UINT16_COLUMNS = 1 << 16


def column_dtype(in_features: int) -> torch.dtype:
    """Returns the dtype of a column index: uint16 while it reaches, else int32."""
    return torch.uint16 if in_features <= _UINT16_COLUMNS else torch.int32


def entry_bits(in_features: int, dtype: torch.dtype = torch.float16) -> int:
    """Returns the stored bits of one entry: its column and its value."""
    return 8 * (column_dtype(in_features).itemsize + dtype.itemsize)


def specs(entries: int, shape: tuple[int, int], dtype: torch.dtype = torch.float16) -> Specs:
    """Returns the planes of a delta part with values of `dtype`; none at all for no entries."""
    if entries == 0:
        return {}
    return {
        "delta_rowptr": (torch.int32, (shape[0] + 1,)),
        "delta_col": (column_dtype(shape[1]), (entries,)),
        "delta_val": (dtype, (entries,)),
    }


def pack(mask_NK: torch.Tensor, value_NK: torch.Tensor, dtype: torch.dtype = torch.float16) -> Planes:
    """Returns the planes for the entries where `mask_NK` is true, sorted by row and column; {} for no entry.

    `value_NK` must already be exact in `dtype`.
    """
    row_Z, col_Z = mask_NK.nonzero(as_tuple=True)
    if row_Z.numel() == 0:
        return {}
    rowptr = torch.zeros(mask_NK.shape[0] + 1, dtype=torch.int64, device=mask_NK.device)
    rowptr[1:] = mask_NK.sum(1).cumsum(0)
    return {
        "delta_rowptr": rowptr.to(torch.int32),
        "delta_col": col_Z.to(column_dtype(mask_NK.shape[1])),
        "delta_val": value_NK[row_Z, col_Z].to(dtype),
    }


class Places(NamedTuple):
    """Where the entries stand, int64 [Z] each."""

    rows: torch.Tensor
    columns: torch.Tensor


def expand(planes: Planes) -> Places | None:
    """Returns the places of the entries; None where there is no delta part."""
    if "delta_rowptr" not in planes:
        return None
    counts_N = planes["delta_rowptr"].to(torch.int64).diff()
    rows_N = torch.arange(counts_N.numel(), device=counts_N.device)
    return Places(rows_N.repeat_interleave(counts_N), planes["delta_col"].to(torch.int64))


def add(
    weight_NK: torch.Tensor, places: Places | None, planes: Mapping[str, torch.Tensor], exponent: int = 0
) -> torch.Tensor:
    """Returns the float32 weight with the entries, times 2^exponent, added to it in place.

    Differentiable in the weight and in `planes["delta_val"]`; nothing else of `planes` is read.
    """
    if places is None:
        return weight_NK
    value_Z = planes["delta_val"].float() * 2.0**exponent
    return weight_NK.index_put_(tuple(places), value_Z, accumulate=True)


def validate(planes: Planes, shape: tuple[int, int], layer: str | None) -> None:
    """Raises FormatError when an entry would fall outside the matrix or twice on one place."""
    if "delta_rowptr" not in planes:
        return
    rowptr, col_Z = planes["delta_rowptr"].to(torch.int64), planes["delta_col"].to(torch.int64)
    if rowptr[0] != 0 or rowptr[-1] != col_Z.numel() or (rowptr.diff() < 0).any():
        raise FormatError("delta_rowptr is not a rising index from 0 to the number of entries", layer=layer)
    if (col_Z < 0).any() or (col_Z >= shape[1]).any():
        raise FormatError(f"delta_col has a column outside 0..{shape[1] - 1}", layer=layer)
    row_Z = torch.arange(shape[0], device=rowptr.device).repeat_interleave(rowptr.diff())
    if ((row_Z * shape[1] + col_Z).diff() <= 0).any():
        raise FormatError("delta_col does not rise within its rows", layer=layer)
    if not planes["delta_val"].isfinite().all():
        raise FormatError("delta_val has a value that is not finite", layer=layer)
