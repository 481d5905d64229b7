"""Pauses the garbage collector while a command starts: it would walk all objects of torch again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """While open, Python looks for no reference cycles; everything else is freed as always.

    Importing torch and transformers makes 400,000 objects that stay. Walking them takes 0.8 s of 5.6, and finds next to
    nothing: 15,000 objects, 8 MB.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
