"""Returns memory that models have freed to the operating system (`give_back`)."""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Returns freed memory to the operating system, so that it does not count for what follows."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library returns memory by itself
        return
