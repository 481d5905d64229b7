"""Measures resident memory, checks it against a limit, and returns memory that models have freed to the system."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterable
from contextlib import suppress

import psutil

from compress.errors import MemoryLimitError
from compress.sizes import format_size

LOADED = 1.5
"""Peak while a block is loaded, in blocks: the block in float32, and half of it as stored, not yet converted."""


def give_back() -> None:
    """Returns freed memory to the operating system, so that it does not count for what follows."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library returns memory by itself
        return


def resident_bytes(others: Iterable[int] = ()) -> int:
    """Returns the resident memory of this process and of other processes, given by their ids.

    Pages that processes share, such as the code of libraries, count for each of them.
    """
    total = int(psutil.Process().memory_info().rss)
    for process in others:
        with suppress(psutil.NoSuchProcess):  # it has died: whoever waits for its answer is told
            total += int(psutil.Process(process).memory_info().rss)
    return total


def enforce(
    limit: int | None, *, do: str, during: str | None = None, layer: str | None = None, others: Iterable[int] = ()
) -> None:
    """Raises MemoryLimitError when this process and `others` together use more than the limit.

    Args:
        limit: limit in bytes, or None.
        do: cure, for the error.
        during: part of the run, for the error.
        layer: path of the layer that was being worked on, for the error.
        others: ids of other processes.
    """
    if limit is not None and (now := resident_bytes(others)) > limit:
        part = "" if during is None else f" in the {during}"
        raise MemoryLimitError(
            f"resident memory reached {format_size(now)}{part}, above the limit of {format_size(limit)}",
            do=do,
            layer=layer,
        )


def check_by_block(part: str, peak_bytes: int, limit: int | None, *, do: str) -> None:
    """Raises MemoryLimitError when a part of a run that reads models block by block will need more than the limit."""
    if limit is not None and peak_bytes > limit:
        raise MemoryLimitError(
            f"the {part} needs about {format_size(peak_bytes)} even when the models are read block by block, "
            f"more than the limit of {format_size(limit)}",
            do=do,
        )
