"""Holds what loading a block takes, and returns memory that models have freed to the operating system."""

from __future__ import annotations

import ctypes
import gc

LOADED = 1.5
"""Peak while a block is loaded, in blocks: the block in float32, and half of it as stored, not yet converted."""


def give_back() -> None:
    """Returns freed memory to the operating system, so that it does not count for what follows."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library returns memory by itself
        return
